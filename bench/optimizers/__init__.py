"""The optimizers, one row each, and how a trial drives them: steps, averaging, schedules."""
