"""Folders of the Medical Segmentation Decathlon and of nnU-Net."""
