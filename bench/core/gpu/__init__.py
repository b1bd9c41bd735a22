"""What a GPU needs to be told, and what its driver tells."""
