"""Synthetic data in the file formats of real data."""
