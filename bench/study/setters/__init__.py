"""Axes, beside the regularizers, whose rows set something in a trial: one file each."""
