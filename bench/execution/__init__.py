"""Running trials in one process or on many lanes: the queue, the dispatcher, Ray."""
