"""A study becomes trials: axes expanded, misfits skipped, time estimated."""
