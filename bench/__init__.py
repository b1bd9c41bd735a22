"""Optimizers, losses and metrics, and everything that runs and compares them."""
