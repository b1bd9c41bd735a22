"""MedMNIST: its catalogue, its files and their download."""
