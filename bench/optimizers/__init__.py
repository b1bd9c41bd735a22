"""The table of optimizers, and how a trial drives them: steps, averaging, schedules."""
