"""LIDC-IDRI: chest CT and its radiologists' reads."""
