"""Runs in phases: tuning, racing, added repeats, a search with Ray Tune."""
