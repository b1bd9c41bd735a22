"""The metrics, one row each, and what they are computed from."""
