"""The kinds of data, one folder each, and what they share."""
