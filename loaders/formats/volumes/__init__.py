"""NRRD and MetaImage volumes, and one function that opens these and NIfTI."""
