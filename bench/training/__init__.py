"""One trial, from its first weight to its last test case."""
