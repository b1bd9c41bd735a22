"""A look at a prepared store before anything is trained: one page, and a picture of its cases."""
