"""What a study costs: times the work of its trials side by side, as a run does it."""
