"""The tests: the same folders as the project, and what they share."""
