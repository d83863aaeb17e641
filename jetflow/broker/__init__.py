"""The only part of jetflow that knows NATS: connection, publish lane, pull lane, topology, timeline, state, membership."""
