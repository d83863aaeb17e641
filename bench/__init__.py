"""What jetflow costs on this machine, beside what its broker alone costs: ``python -m bench``."""
