"""Whole volumes that a table labels: DICOM series, NIfTI, NRRD, MetaImage."""
