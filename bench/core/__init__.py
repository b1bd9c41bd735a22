"""What the rest of bench is built on: settings, references, processes, timing, the machine."""
