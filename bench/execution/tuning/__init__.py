"""Tuned runs: points first, then the chosen; searches by Ray Tune."""
