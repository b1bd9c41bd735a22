"""Trials laid out over GPUs before a run: how long it lasts, what it costs, what stands idle."""
