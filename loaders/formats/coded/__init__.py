"""Compressed images: the size and depth that they declare, and fast decoding of plain PNG."""
