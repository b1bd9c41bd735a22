"""What is asked: a study, its axes and entries, its data, and one trial of it."""
