"""Measures, before the first trial, what computes each model fastest on this device."""
