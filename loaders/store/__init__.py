"""Cases to memory-mapped arrays on disk, and back."""
