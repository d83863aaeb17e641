"""What users see of a run's recorded events; pure."""
