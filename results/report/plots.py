"""Figures of the report: SVG to put inside a page, and pictures as data URIs.

Text in the SVG stays text, in the page's own font; ids carry the figure's name, so that several
figures share one page; nothing refers outside. Labels come from users: none is read as markup.
"""

import base64
import io
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib import image as mpl_image
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from results.report.looks import INK, MUTED, PAPER, RULE, Look, themed

#: Outlines on example slices: reference and prediction.
REFERENCE, PREDICTION = (255, 176, 0), (64, 196, 255)

# Width and height in points of 1/72 inch, which are the units of the viewBox.
# About half the width of the page, so that text has the size of the page's.
_CURVES, _SCATTER = (470, 300), (470, 300)
# A side of an example picture on the page is about this many pixels. Assumption.
_PICTURE = 288
# More points than this are drawn smaller. Assumption.
_MANY = 60
# Size of a rank in points, its height, and the width of a digit of the page's fonts.
_RANK, _HEIGHT, _DIGIT = 10.5, 9.0, 6.7

_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "text.parse_math": False,
    "font.size": 11.5,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": RULE,
    "grid.linewidth": 0.8,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "text.color": INK,
}


@dataclass(frozen=True, kw_only=True)
class Curve:
    """A score over the course of training: (n,) x, mean, low and high over folds."""

    colour: str
    dash: Sequence[float] = ()
    x: np.ndarray
    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray


@dataclass(frozen=True, kw_only=True)
class Profile:
    """The share of problems, (n,) from 0 to 1, that a method solves within each of (n,) ratios."""

    colour: str
    dash: Sequence[float] = ()
    ratios: np.ndarray
    shares: np.ndarray


@dataclass(frozen=True, kw_only=True)
class Point:
    """One combination in the plane of training time and score; `rank` is written beside it."""

    seconds: float
    score: float
    look: Look
    shape: Any
    rank: str
    ringed: bool


def curves(lines: Sequence[Curve], *, name: str, x_label: str, y_label: str, alt: str) -> str:
    """Return learning curves: the mean as a line, the range over folds as a band."""
    figure, axes = _axes(_CURVES)
    for line in lines:
        axes.fill_between(line.x, line.low, line.high, color=line.colour, alpha=0.11, linewidth=0)
    for line in lines:
        alone = "o" if len(line.x) == 1 else ""
        (drawn,) = axes.plot(line.x, line.mean, color=line.colour, linewidth=2, marker=alone)
        drawn.set_dashes(line.dash)
        drawn.set_markersize(4)
    ticks = whole_epochs(min(line.x.min() for line in lines), max(line.x.max() for line in lines))
    axes.set_xticks(ticks)
    room = 0.03 * (ticks[-1] - ticks[0] or 1)
    axes.set_xlim(
        min(ticks[0], *(line.x.min() for line in lines)) - room,
        max(ticks[-1], *(line.x.max() for line in lines)) + room,
    )
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    return _svg(figure, name, alt)


def profiles(lines: Sequence[Profile], *, name: str, x_label: str, y_label: str, alt: str) -> str:
    """Return performance profiles: a staircase per method, rising as more time is allowed."""
    figure, axes = _axes(_CURVES)
    for line in lines:
        (drawn,) = axes.step(
            line.ratios, line.shares, where="post", color=line.colour, linewidth=2, clip_on=False
        )
        drawn.set_dashes(line.dash)
    axes.set_xlim(min(line.ratios[0] for line in lines), max(line.ratios[-1] for line in lines))
    axes.set_ylim(0, 1)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.0f} %"))
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    return _svg(figure, name, alt)


def histogram(lines: Sequence[Profile], *, name: str, x_label: str, alt: str) -> str:
    """Return shares of voxels by value, a staircase per channel, with (n + 1,) edges of n bins."""
    figure, axes = _axes(_SCATTER)
    for line in lines:
        drawn = axes.stairs(
            100 * line.shares, line.ratios, color=line.colour, linewidth=2, baseline=None
        )
        drawn.set_linestyle((0, tuple(line.dash)) if line.dash else "-")
    axes.set_ylim(0, 108 * max(line.shares.max() for line in lines) or 1)
    axes.set_xlabel(x_label)
    axes.set_ylabel("share of voxels, %")
    return _svg(figure, name, alt)


def whole_epochs(low: float, high: float) -> list[int]:
    """Return at most nine evenly spaced whole numbers, from `low` or below to `high`."""
    first, last = math.floor(low), math.ceil(high)
    steps = (step * 10**power for power in range(9) for step in (1, 2, 5))
    step = next(step for step in steps if (last - first) / step <= 8)
    ticks = [n for n in range(first - first % step, last + 1, step) if first <= n <= last]
    return ticks or [first]


def price_and_score(
    points: Sequence[Point], *, name: str, x_label: str, y_label: str, higher: bool, alt: str
) -> str:
    """Return training time (log seconds) against score, with those that none beats in both joined.

    Ranks are written beside the points if there is room: the joined ones first, then the best.
    """
    figure, axes = _axes(_SCATTER)
    front = pareto([p.seconds for p in points], [p.score for p in points], higher=higher)
    axes.plot(
        [points[i].seconds for i in front],
        [points[i].score for i in front],
        color=MUTED,
        linewidth=1.2,
        linestyle=(0, (4, 3)),
        zorder=1,
    )
    side = 9 if len(points) <= _MANY else 6
    for point in reversed(points):
        if point.ringed:
            axes.plot(
                *(point.seconds, point.score, "o"),
                markersize=side + 6,
                markerfacecolor="none",
                markeredgecolor=INK,
                markeredgewidth=1.1,
                zorder=2,
            )
        axes.plot(
            *(point.seconds, point.score),
            marker=point.shape,
            markersize=side,
            fillstyle=point.look.fill,
            color=point.look.colour,
            markerfacecoloralt=PAPER,
            markeredgewidth=1.2,
            zorder=3,
        )
    _log_axis(axes, [point.seconds for point in points])
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    axes.margins(y=0.12)
    order = [*front, *(i for i in range(len(points)) if i not in front)]
    _write_ranks(figure, axes, [points[i] for i in order], side)
    return _svg(figure, name, alt)


@dataclass(frozen=True, kw_only=True)
class TriedRate:
    """One point of a search in the plane of learning rate and score; `ringed`: it was chosen."""

    rate: float
    score: float
    look: Look
    ringed: bool


def rates(points: Sequence[TriedRate], *, name: str, y_label: str, alt: str) -> str:
    """Return learning rate (log) against score, one mark per point."""
    figure, axes = _axes(_SCATTER)
    side = 7 if len(points) <= _MANY else 5
    for point in points:
        if point.ringed:
            axes.plot(
                *(point.rate, point.score, "o"),
                markersize=side + 5,
                markerfacecolor="none",
                markeredgecolor=INK,
                markeredgewidth=1.1,
            )
        axes.plot(
            *(point.rate, point.score, "o"),
            markersize=side,
            fillstyle=point.look.fill,
            color=point.look.colour,
            markerfacecoloralt=PAPER,
        )
    _log_axis(axes, [point.rate for point in points])
    axes.set_xlabel("learning rate")
    axes.set_ylabel(y_label)
    return _svg(figure, name, alt)


def _log_axis(axes: Axes, values: Sequence[float]) -> None:
    axes.set_xscale("log")
    low, high = min(values), max(values)
    if high / low < 5:
        # A single decade has few log ticks: leave room around the points, tick at 1, 1.5, 2 ...
        axes.set_xlim(low / 1.3, high * 1.3)
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 1.5, 2, 3, 4, 5, 6, 8), numticks=20))
    else:
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5), numticks=20))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def _write_ranks(figure: Figure, axes: Axes, points: Sequence[Point], side: float) -> None:
    """Write the rank beside each point that has room for it, the first points first."""
    figure.draw_without_rendering()  # the layout decides where points are
    to_points = 72 / figure.dpi
    where = axes.transData.transform([(p.seconds, p.score) for p in points]) * to_points
    box = axes.get_window_extent()
    frame = tuple(to_points * edge for edge in (box.x0, box.y0, box.x1, box.y1))
    corners = places(where, [len(p.rank) * _DIGIT for p in points], frame, side)
    for point, at, corner in zip(points, where, corners, strict=True):
        if corner is not None:
            axes.annotate(
                point.rank,
                (point.seconds, point.score),
                xytext=corner - at,
                textcoords="offset points",
                fontsize=_RANK,
                color=MUTED,
                zorder=4,
            )


def places(
    where: np.ndarray, widths: Sequence[float], frame: Sequence[float], side: float
) -> list[np.ndarray | None]:
    """Return the lower left corner of each label, None for labels without room.

    `where` (n, 2) are points of `side` each, `widths` those of their labels, and `frame` is (left,
    bottom, right, top), all in points. A label covers no point, no other label and no edge.
    """
    half = side / 2 + 1
    taken = [(x - half, y - half, x + half, y + half) for x, y in where]
    found: list[np.ndarray | None] = []
    for (x, y), width in zip(where, widths, strict=True):
        left, right, low, high = x - half - 2 - width, x + half + 2, y - half - _HEIGHT, y + half
        middle = (x - width / 2, y - _HEIGHT / 2)
        sides = [(right, high - 2), (left, high - 2), (right, low + 2), (left, low + 2)]
        sides += [(right, middle[1]), (left, middle[1]), (middle[0], high), (middle[0], low)]
        for corner in sides:
            box = (*corner, corner[0] + width, corner[1] + _HEIGHT)
            inside = frame[0] <= box[0] and frame[1] <= box[1]
            inside = inside and box[2] <= frame[2] and box[3] <= frame[3]
            if inside and not any(_overlap(box, other) for other in taken):
                taken.append(box)
                found.append(np.array(corner))
                break
        else:
            found.append(None)
    return found


def _overlap(one: Sequence[float], other: Sequence[float]) -> bool:
    apart = one[2] <= other[0] or other[2] <= one[0] or one[3] <= other[1] or other[3] <= one[1]
    return not apart


def pareto(seconds: Sequence[float], scores: Sequence[float], *, higher: bool) -> list[int]:
    """Return the indices, cheapest first, of those that none beats in both price and score."""
    sign = 1 if higher else -1
    front: list[int] = []
    for i in sorted(range(len(seconds)), key=lambda i: (seconds[i], -sign * scores[i])):
        if not front or sign * scores[i] > sign * scores[front[-1]]:
            front.append(i)
    return front


def shade(share: float) -> str:
    """Return the background of a heat-map cell, from 0 (palest and worst) to 1 (best).

    Even the darkest leaves INK a contrast of 5.4 (WCAG 2.2 asks for 4.5).
    """
    pale, deep = np.array([243, 247, 248]), np.array([74, 163, 181])
    colour = (pale + (deep - pale) * min(max(share, 0.0), 1.0)).round().astype(int)
    return "#" + "".join(f"{channel:02x}" for channel in colour)


def picture(
    image: np.ndarray, reference: np.ndarray | None = None, prediction: np.ndarray | None = None
) -> str:
    """Return an image as a PNG data URI, with (H, W) label maps of its size as outlines.

    An (H, W) image of any type is shown in grey between its percentiles, an (H, W, 3) uint8 one in
    its own colours.
    """
    shown = image if image.ndim == 3 else np.repeat(grey(image)[:, :, None], 3, axis=2)
    times = max(round(_PICTURE / max(shown.shape[:2])), 1)
    rgb = enlarged(shown.astype(np.uint8, copy=False), times)
    for labels, colour, width in ((reference, REFERENCE, 3), (prediction, PREDICTION, 2)):
        if labels is not None:
            rgb[edges(enlarged(labels, times), width)] = colour
    return data_uri(rgb)


def data_uri(rgb: np.ndarray) -> str:
    """Return (H, W, 3) uint8 as a PNG data URI."""
    out = io.BytesIO()
    mpl_image.imsave(out, rgb, format="png")
    return "data:image/png;base64," + base64.b64encode(out.getvalue()).decode()


def grey(image: np.ndarray, ends: tuple[float, float] | None = None) -> np.ndarray:
    """Return uint8 scaled between two values, by default the 1st and 99th percentile."""
    pixels = np.nan_to_num(np.asarray(image, np.float64))
    low, high = np.percentile(pixels, (1, 99)) if ends is None else ends
    span = high - low if high > low else 1.0
    shade: np.ndarray = np.clip((pixels - low) / span, 0, 1) * 255
    return shade.astype(np.uint8)


def enlarged(pixels: np.ndarray, times: int, across: int | None = None) -> np.ndarray:
    """Return pixels repeated `times` down and `across` (None: as often) to the right."""
    larger: np.ndarray = pixels.repeat(times, axis=0).repeat(across or times, axis=1)
    return larger


def edges(labels: np.ndarray, width: int) -> np.ndarray:
    """Return (H, W) bool: labelled pixels within `width` of another label."""
    padded = np.pad(labels, width)
    edge: np.ndarray = np.zeros(labels.shape, bool)
    rows, columns = labels.shape
    for dy, dx in ((-width, 0), (width, 0), (0, -width), (0, width)):
        moved = padded[width + dy : width + dy + rows, width + dx : width + dx + columns]
        edge |= moved != labels
    edge &= labels > 0
    return edge


def _axes(size: tuple[int, int]) -> tuple[Figure, Axes]:
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(size[0] / 72, size[1] / 72), layout="constrained")
        axes = figure.add_subplot()
        axes.set_axisbelow(b=True)
        return figure, axes


def _svg(figure: Figure, name: str, alt: str) -> str:
    """Return a figure as <svg> to put inside a page: no prologue, no metadata, unique ids."""
    out = io.StringIO()
    with mpl.rc_context({**_STYLE, "svg.hashsalt": name}):
        figure.savefig(
            out,
            format="svg",
            transparent=True,  # the page's own background, light or dark
            metadata={"Date": None, "Creator": None, "Format": None, "Type": None},
        )
    text = out.getvalue()
    text = text[text.index("<svg") :]
    # A style sheet inside would apply to the whole page, which has its own font.
    text = re.sub(r"<(metadata|style)\b.*?</\1>", "", text, flags=re.DOTALL)
    text = re.sub(r"font-family: [^;\"]*;? ?", "", text)
    text = re.sub(r'\bid="([^"]+)"', rf'id="{name}-\1"', text)
    text = re.sub(r'(xlink:href="|url\()#([^")]+)', rf"\1#{name}-\2", text)
    head = re.search(r'<svg[^>]*viewBox="([^"]+)"[^>]*>', text)
    assert head is not None, "matplotlib writes a viewBox"
    opening = (
        f'<svg xmlns:xlink="http://www.w3.org/1999/xlink" viewBox="{head[1]}" role="img" '
        f'aria-label="{_attribute(alt)}">'
    )
    return themed(opening + text[head.end() :].strip())


def _attribute(text: str) -> str:
    for raw, escaped in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;"), ('"', "&quot;")):
        text = text.replace(raw, escaped)
    return text
