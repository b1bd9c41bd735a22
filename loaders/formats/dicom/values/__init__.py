"""What the numbers of a DICOM picture mean: bits and padding, tables and slopes, units."""
