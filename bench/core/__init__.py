"""What the rest of bench stands on: settings, references, processes, timing, the machine."""
