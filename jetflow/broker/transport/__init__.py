"""One connection to nats-server: bytes, requests, consumers."""
