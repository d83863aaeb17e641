"""Work besides turns: expiry, compaction, lifecycle events, supervision."""
