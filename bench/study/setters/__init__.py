"""Axes, besides regularizers, whose rows set fields of a trial: one file each."""
