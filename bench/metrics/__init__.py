"""The table of metrics, and what they are computed from."""
