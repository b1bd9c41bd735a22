"""The table of losses, and how the loss of a batch is computed."""
