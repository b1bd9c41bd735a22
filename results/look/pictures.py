"""A case as pictures: its planes in true proportion, each label outlined in its own colour."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from results.look.content import Plane, Shown
from results.report.looks import DARK, INK, PAPER
from results.report.plots import edges, enlarged, grey

# Approximate longer side of a picture in pixels: twice its size on the page. Assumption.
_SIDE = 460
_WIDTH = 3
# Height of a case in the picture of all cases, in inches, and its columns for single planes.
_CELL, _COLUMNS = 2.6, 4
_RGB = [tuple(int(colour[at : at + 2], 16) for at in (1, 3, 5)) for colour in DARK]


def colour_of(label: int) -> str:
    """Return the colour of a label from 1 on; colours repeat after the eighth."""
    return DARK[(label - 1) % len(DARK)]


def drawn(planes: Sequence[Plane]) -> list[np.ndarray]:
    """Return the planes of a case as (H, W, 3) uint8, with one grey-level window per channel."""
    ends = _window(planes)
    return [_drawn(plane, ends.get(_channel(plane))) for plane in planes]


def _channel(plane: Plane) -> str:
    return plane.name.partition(",")[0]


def _window(planes: Sequence[Plane]) -> dict[str, tuple[float, float]]:
    """Return the 1st and the 99th percentile of each channel over all of its planes."""
    pixels: dict[str, list[np.ndarray]] = {}
    for plane in planes:
        if plane.image.ndim == 2:
            pixels.setdefault(_channel(plane), []).append(np.ravel(plane.image))
    found = {}
    for channel, parts in pixels.items():
        low, high = np.percentile(np.nan_to_num(np.concatenate(parts).astype(float)), (1, 99))
        found[channel] = float(low), float(high)
    return found


def _drawn(plane: Plane, ends: tuple[float, float] | None) -> np.ndarray:
    image = plane.image if plane.image.ndim == 3 else grey(plane.image, ends)
    labels = plane.labels
    step = max(max(image.shape[:2]) // _SIDE, 1)
    if step > 1:
        image = _blocks(image, step).mean(axis=(1, 3)).astype(np.uint8)
        # The largest label of each block, so that thin structures are kept.
        labels = None if labels is None else _blocks(labels, step).max(axis=(1, 3))
    down, across = _repeats(image.shape[:2], plane.pixel)
    shown = image if image.ndim == 3 else np.repeat(image[:, :, None], 3, axis=2)
    rgb = enlarged(shown, down, across)
    if labels is not None:
        large = enlarged(labels, down, across)
        edge = edges(large, _WIDTH)
        rgb[edge] = np.array(_RGB, np.uint8)[(large[edge].astype(int) - 1) % len(_RGB)]
    return rgb


def _blocks(pixels: np.ndarray, step: int) -> np.ndarray:
    """Return (H / step, step, W / step, step, ...): pixels in blocks, the last ones padded."""
    height, width = (-(-side // step) for side in pixels.shape[:2])
    grown = [(0, n * step - side) for n, side in zip((height, width), pixels.shape, strict=False)]
    filled = np.pad(pixels, [*grown, *[(0, 0)] * (pixels.ndim - 2)], mode="edge")
    blocks: np.ndarray = filled.reshape(height, step, width, step, *pixels.shape[2:])
    return blocks


def _repeats(shape: Sequence[int], pixel: tuple[float, float]) -> tuple[int, int]:
    """Return how often to repeat rows and columns for true proportions and the wanted size."""
    unit = _SIDE / max(side * length for side, length in zip(shape, pixel, strict=True))
    # The finer side first, so that the other is an integer multiple of it if possible.
    fine = max(round(unit * min(pixel)), 1)
    down, across = (max(round(fine * length / min(pixel)), 1) for length in pixel)
    return down, across


def of_cases(cases: Sequence[Shown], name: str) -> Figure:
    """Return one picture of all cases with their answers: one per row, or four single planes."""
    most = max(len(case.planes) for case in cases)
    columns = most if most > 1 else min(_COLUMNS, len(cases))
    rows = len(cases) if most > 1 else -(-len(cases) // columns)
    pictures = [drawn(case.planes) for case in cases]
    tallest = max(rgb.shape[0] / rgb.shape[1] for each in pictures for rgb in each)
    figure = Figure(
        figsize=(max(_CELL * columns, 2 * _CELL), (_CELL * min(tallest, 1.5) + 0.4) * rows + 0.4),
        layout="constrained",
        facecolor=PAPER,
    )
    figure.suptitle(_cut(name, 60), color=INK, parse_math=False)
    cells = figure.subplots(rows, columns, squeeze=False)
    for cell in cells.flat:
        cell.set_axis_off()
    for number, (case, planes) in enumerate(zip(cases, pictures, strict=True)):
        row, first = (number, 0) if most > 1 else divmod(number, columns)
        for at, (plane, rgb) in enumerate(zip(case.planes, planes, strict=True)):
            cell = cells[row, first + at]
            cell.imshow(rgb, interpolation="nearest")
            said = case.answer if at == 0 else plane.name
            cell.set_title(_cut(said, 34), fontsize=8, color=INK, parse_math=False)
    return figure


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"
