"""What is compared, and the running of it."""
