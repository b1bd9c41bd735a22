"""The verdict as an HTML page and in the terminal."""
