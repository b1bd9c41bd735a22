"""Lays trials out over GPUs before a run: duration, cost, idle time."""
