"""The verdict as a page and on the terminal."""
