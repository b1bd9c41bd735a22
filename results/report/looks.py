"""How figures distinguish things: colours with fills for optimizers, shapes for losses, dashes.

Colour is never the only difference. No two things in a figure look the same until the looks run
out, and every colour has a counterpart for a dark page.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, Literal, get_args

import numpy as np
from matplotlib.markers import MarkerStyle

INK, MUTED, RULE, PAPER = "#1c2329", "#5b6770", "#d9dfe3", "#ffffff"

#: Distinguishable for colour-blind readers and dark enough on white: after Okabe and Ito (2008).
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#a8478a", "#8a6d00", "#3a9fd4", "#6b4e2e", "#555f66")
#: The same hues, light enough on a dark page.
DARK = ("#4aa3e0", "#f08b4a", "#2fc79a", "#dc8cc4", "#d6b23c", "#93d2f5", "#c79f74", "#a9b6be")
#: How much of a marker is filled, as matplotlib names it.
Fill = Literal["full", "none", "left", "top", "right", "bottom"]
#: A dash for each curve of a figure: (on, off, ...) in points, empty for a solid line.
DASHES: tuple[tuple[float, ...], ...] = ((), (5, 2), (1.5, 1.5), (7, 2, 1.5, 2), (3, 1), (9, 3))

_WIDE, _TALL = (
    ((-1, -0.4), (1, -0.4), (1, 0.4), (-1, 0.4)),
    ((-0.4, -1), (0.4, -1), (0.4, 1), (-0.4, 1)),
)
_SLANTED = ((-1, -0.7), (0.4, -0.7), (1, 0.7), (-0.4, 0.7))
_HOUSE = ((-0.8, -0.9), (0.8, -0.9), (0.8, 0.2), (0, 1), (-0.8, 0.2))
_GLASS = ((-0.9, -0.9), (0.9, -0.9), (-0.9, 0.9), (0.9, 0.9))
_BOW = ((-0.9, -0.9), (-0.9, 0.9), (0.9, -0.9), (0.9, 0.9))
_STEP = ((-0.9, -0.9), (0.9, -0.9), (0.9, 0), (0, 0), (0, 0.9), (-0.9, 0.9))
_KITE = ((0, -1.1), (0.8, 0.3), (0, 1), (-0.8, 0.3))
_CORNER = ((-0.9, -0.9), (0.9, -0.9), (-0.9, 0.9))
_ARROW = ((-0.9, -0.9), (0, -0.3), (0.9, -0.9), (0, 1))
_TABLE = ((-1, -0.9), (-0.5, 0.1), (0.5, 0.1), (1, -0.9), (1, 0.7), (-1, 0.7))
#: Markers for matplotlib, the easiest to distinguish first.
SHAPES: tuple[Any, ...] = (
    *("o", "s", "^", "D", "v", "P", "X", "p", "<", ">", "*", "h", "d", "8"),
    *((4, 1, 0), (6, 1, 0), (3, 1, 0), _WIDE, _TALL, _SLANTED, _HOUSE, _GLASS, _BOW, _STEP, _KITE),
    *(_CORNER, _ARROW, _TABLE),
)


@dataclass(frozen=True)
class Look:
    """A colour, and how much of a marker it fills."""

    colour: str
    fill: Fill


_LOOKS = tuple(Look(colour, fill) for fill, colour in product(get_args(Fill), COLOURS))


def looks(names: Sequence[str]) -> dict[str, Look]:
    """Return a look for each name; those past the last share it."""
    return {name: _LOOKS[min(i, len(_LOOKS) - 1)] for i, name in enumerate(names)}


def shapes(names: Sequence[str]) -> dict[str, Any]:
    """Return a marker for each name; those past the last share it."""
    return {name: SHAPES[min(i, len(SHAPES) - 1)] for i, name in enumerate(names)}


def legend(found: Mapping[str, Any], signs: Mapping[Any, str]) -> list[dict[str, str]]:
    """Return {"name", "sign"} for each look of a figure; names with one look are merged."""
    together: dict[Any, list[str]] = {}
    for name, look in found.items():
        together.setdefault(look, []).append(name)
    return [{"name": ", ".join(names), "sign": signs[look]} for look, names in together.items()]


def sign(shape: Any, look: Look) -> str:
    """Return a marker as SVG, for a legend."""
    marker = MarkerStyle(shape, fillstyle=look.fill)
    halves = [(marker.get_path(), marker.get_transform(), look.colour)]
    if look.fill == "none":
        halves = [(marker.get_path(), marker.get_transform(), "none")]
    elif other := marker.get_alt_path():
        halves.append((other, marker.get_alt_transform(), PAPER))
    drawn = ""
    for path, transform, fill in halves:
        for polygon in path.transformed(transform).to_polygons(closed_only=True):
            corners = " ".join(f"{x:.3g},{-y:.3g}" for x, y in np.asarray(polygon))
            drawn += f'<polygon points="{corners}" style="fill: {fill}; stroke: {look.colour}"/>'
    return themed(
        f'<svg class="sign" viewBox="-0.85 -0.85 1.7 1.7" role="img" aria-label="marker">'
        f'<g stroke-width="0.12">{drawn}</g></svg>'
    )


def stroke(colour: str, dash: Sequence[float]) -> str:
    """Return a piece of a curve as SVG, for a legend."""
    dashes = f"; stroke-dasharray: {' '.join(f'{d:g}' for d in dash)}" if dash else ""
    return themed(
        '<svg class="stroke" viewBox="0 0 30 8" role="img" aria-label="line"><path d="M0 4H30" '
        f'style="fill: none; stroke: {colour}; stroke-width: 2.5{dashes}"/></svg>'
    )


_NAMES = {INK: "ink", MUTED: "muted", RULE: "rule", PAPER: "page"}
_NAMES |= {colour: f"c{i}" for i, colour in enumerate(COLOURS)}


def themed(svg: str) -> str:
    """Return a drawing with the colours of the page's theme, light or dark."""

    def variable(found: re.Match[str]) -> str:
        name = _NAMES.get(found[2].lower())
        return f"{found[1]}var(--{name})" if name else found[0]

    return re.sub(r"((?:fill|stroke): )(#[0-9a-fA-F]{6})", variable, svg)
