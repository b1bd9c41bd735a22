"""Pixel values of DICOM images: bits and padding, tables and slopes, units."""
