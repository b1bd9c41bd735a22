"""GPU energy, GPU errors, and kernels that repeat their bits."""
