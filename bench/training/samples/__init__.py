"""Clinical inputs beside the image, and labels that replace the store's in training."""
