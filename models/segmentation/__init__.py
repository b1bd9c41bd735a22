"""Networks that classify every voxel."""
