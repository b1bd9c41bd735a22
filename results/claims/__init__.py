"""What the two papers claim, as questions with a measure, a test and an answer."""
