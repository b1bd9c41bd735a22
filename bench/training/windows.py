"""Where the windows lie in which a large image goes through a network."""


def starts(side: int, window: int, overlap: float) -> list[int]:
    """Return where windows start along a side that is no shorter than they are.

    Neighbours share at least the part `overlap` of a window, the last ends where the side does: as
    MONAI's sliding window inference lays them.
    """
    step = max(int(window * (1 - overlap)), 1)
    return [*range(0, side - window, step), side - window]
