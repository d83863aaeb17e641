"""What is stored: one module for each stream or bucket."""
