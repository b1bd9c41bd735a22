"""The study: its axes and entries, its data, and a single trial."""
