"""A double of nats-server in memory, and event loops in virtual time. jetflow's real code runs on them, from a seed."""
