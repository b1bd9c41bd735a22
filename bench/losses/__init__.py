"""The losses, one row each, and how a batch's loss is made of them."""
