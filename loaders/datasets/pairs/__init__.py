"""Images and their masks, found by two patterns or by the name of a public layout."""
