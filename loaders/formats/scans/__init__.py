"""DICOM series as volumes of any modality, and the masks that are drawn on them."""
