"""Attempts of activities, on this worker and on others."""
