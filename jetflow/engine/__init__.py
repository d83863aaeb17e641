"""The owner's side: commands in, one commit, its effects, the ack. Between ``broker`` and the pure ``core``."""
