"""Segmentation losses that compare shapes: borders and skeletons."""
