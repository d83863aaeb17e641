"""Writes that the broker refuses once their owner's tenure is over."""
