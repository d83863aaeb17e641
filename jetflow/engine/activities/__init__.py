"""Attempts of activities, here and on other workers."""
