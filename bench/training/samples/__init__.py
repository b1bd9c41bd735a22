"""What a network is given beside an image, and taught in place of its answer."""
