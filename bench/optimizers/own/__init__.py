"""Optimizers that no library has as they are wanted: their steps are written here."""
