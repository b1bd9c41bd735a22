"""DICOM series as volumes, whatever the modality, and the masks drawn on them."""
