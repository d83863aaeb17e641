"""The command line: ``jetflow``, or ``python -m jetflow``."""
