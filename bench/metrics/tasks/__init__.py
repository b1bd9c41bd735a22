"""How the cases of each task are scored: what a network said of them, their rows, what is shown."""
