"""Durable workflows whose only server is NATS."""
