"""A count of the steps that the training of this process has made, to tell work from a hang."""


class Pulse:
    """Counts steps: batches trained, cases and windows scored. A count that stands is a hang."""

    def __init__(self) -> None:
        self.count = 0

    def beat(self) -> None:
        """Note a step."""
        self.count += 1


#: Of this process: trials run one after another in it.
PULSE = Pulse()
