"""Ray: the lanes that train on it, and the cluster's machines."""
