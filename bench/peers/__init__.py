"""jetflow beside other durable workflow engines, on the same machine, with the same work: ``python -m bench.peers``."""
