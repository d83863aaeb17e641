"""The owner: commands in, one commit, its effects, the ack. It stands between ``broker`` and the pure ``core``."""
