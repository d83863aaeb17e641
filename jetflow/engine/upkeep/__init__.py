"""What happens beside turns: expiry, compaction, lifecycle events, supervision."""
