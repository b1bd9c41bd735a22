"""Losses of answers that are numbers: several findings at once, and how far off a number is."""
