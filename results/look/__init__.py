"""A look at a store before training: one page, and a picture of its cases."""
