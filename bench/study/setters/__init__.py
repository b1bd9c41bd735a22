"""Axes whose rows set something of a trial, beside the regularizers: a file each."""
