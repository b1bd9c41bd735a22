"""Optimizers implemented here because no library has them in the form needed."""
