"""Volumes beside NIfTI: NRRD and MetaImage, and one way to open all three."""
