"""What clients send, and how they get the outcome."""
