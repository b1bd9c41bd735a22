"""The kinds of data, a folder each, and what they share."""
