"""What clients send, and how they learn what became of it."""
