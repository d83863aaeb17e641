"""Pure: from a run's recorded events to what users see."""
