"""What a study costs: the work of its trials timed, and laid out as a run has it."""
