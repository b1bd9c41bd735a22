"""Scoring by task: a network's outputs, the rows of each case, the examples shown."""
