"""Losses of masks that ask for the shape of what is outlined: its border, its skeleton."""
