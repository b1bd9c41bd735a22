"""Counts the steps that training in this process has made, to tell work from a hang."""


class Pulse:
    """Counts steps: batches trained, cases and windows scored. If it stops, training hangs."""

    def __init__(self) -> None:
        self.count = 0

    def beat(self) -> None:
        """Note a step."""
        self.count += 1


#: The one of this process, in which trials run one after another.
PULSE = Pulse()
