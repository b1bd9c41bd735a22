"""The base of bench: settings, references, processes, timing, the machine."""
