"""Runs in phases: tuned (points first, then the chosen), raced, searched by Ray Tune."""
