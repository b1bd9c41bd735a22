"""What computes each model fastest on this device: measured before the first trial."""
