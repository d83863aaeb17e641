"""Histories: exports, watching, and what they are made of."""
