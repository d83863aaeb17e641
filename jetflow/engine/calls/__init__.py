"""Queries and updates."""
