"""DICOM: headers, slices, pixels, units, series."""
