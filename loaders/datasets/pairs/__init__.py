"""Images and their masks, found by two patterns or by a layout known by name."""
