"""Whole volumes labelled by a table: DICOM series, NIfTI, NRRD, MetaImage."""
