"""From a study to trials: expands the axes, skips what cannot go together, estimates time."""
