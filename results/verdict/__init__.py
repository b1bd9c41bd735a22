"""From the rows of a run to what can be said of it."""
