"""Fenced writes: the broker refuses them once their owner's tenure is revoked."""
