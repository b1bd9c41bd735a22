"""Ray: the lanes that train on it, and the machines under them."""
