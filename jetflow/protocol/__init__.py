"""The wire format and the clock, shared by clients, workers and ``broker``."""
