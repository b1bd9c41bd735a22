"""The claims of two papers as questions, each with a measure, a test and an answer."""
