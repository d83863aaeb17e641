"""The seven steps of a workflow's turn."""
