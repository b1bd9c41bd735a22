"""Figures of the report: SVG text that stands inside a page, and pictures as data URIs.

Text in the SVG stays text, in the page's own font; ids carry the figure's name, so that several
figures share one page; nothing refers outside. Labels come from users: none is read as markup.
"""

import base64
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib import image as mpl_image
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

INK, MUTED, RULE = "#1c2329", "#5b6770", "#d9dfe3"

#: Told apart by colour-blind readers too, and dark enough on white: after Okabe and Ito (2008).
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#a8478a", "#8a6d00", "#3a9fd4", "#6b4e2e", "#555f66")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "p")

#: Outlines on example slices: reference and prediction.
REFERENCE, PREDICTION = (255, 176, 0), (64, 196, 255)

# Width and height in points of 1/72 inch, which are the units of the viewBox.
# About what half the page is wide, so that text has the page's size.
_CURVES, _SCATTER = (470, 300), (470, 300)
# A side of an example picture on the page is about this many pixels. Assumption.
_PICTURE = 288

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
    x: np.ndarray
    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray


@dataclass(frozen=True, kw_only=True)
class Point:
    """One combination in the plane of price and score; `rank` is written beside it."""

    seconds: float
    score: float
    colour: str
    marker: str
    rank: str
    ringed: bool


def curves(lines: Sequence[Curve], *, name: str, x_label: str, y_label: str, alt: str) -> str:
    """Return learning curves: the mean as a line, the range over folds as a band."""
    figure, axes = _axes(_CURVES)
    for line in lines:
        axes.fill_between(line.x, line.low, line.high, color=line.colour, alpha=0.11, linewidth=0)
    for line in lines:
        alone = "o" if len(line.x) == 1 else ""
        axes.plot(line.x, line.mean, color=line.colour, linewidth=2, marker=alone, markersize=4)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True))
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    axes.margins(x=0.02)
    return _svg(figure, name, alt)


def price_and_score(
    points: Sequence[Point], *, name: str, x_label: str, y_label: str, higher: bool, alt: str
) -> str:
    """Return price (log seconds) against score, with the Pareto front: none cheaper and better."""
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
    for point in points:
        axes.plot(
            point.seconds,
            point.score,
            point.marker,
            color=point.colour,
            markersize=9,
            markeredgecolor=INK if point.ringed else "white",
            markeredgewidth=1.8 if point.ringed else 0.8,
            zorder=2,
        )
        axes.annotate(
            point.rank,
            (point.seconds, point.score),
            xytext=(8, 5),
            textcoords="offset points",
            fontsize=10.5,
            color=MUTED,
            zorder=3,
        )
    axes.set_xscale("log")
    low, high = min(p.seconds for p in points), max(p.seconds for p in points)
    if high / low < 5:
        # Within a decade the log ticks are few: room around the points and a tick at 1, 1.5, 2 ...
        axes.set_xlim(low / 1.3, high * 1.3)
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 1.5, 2, 3, 4, 5, 6, 8), numticks=20))
    else:
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5), numticks=20))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    axes.margins(y=0.12)
    return _svg(figure, name, alt)


def pareto(seconds: Sequence[float], scores: Sequence[float], *, higher: bool) -> list[int]:
    """Return the indices, cheapest first, of what nothing beats in both price and score."""
    sign = 1 if higher else -1
    front: list[int] = []
    for i in sorted(range(len(seconds)), key=lambda i: (seconds[i], -sign * scores[i])):
        if not front or sign * scores[i] > sign * scores[front[-1]]:
            front.append(i)
    return front


def shade(share: float) -> str:
    """Return the background of a heat-map cell, from 0, palest and worst, to 1, best.

    Even the darkest leaves INK a contrast of 5.4 (WCAG 2.2 asks for 4.5).
    """
    pale, deep = np.array([243, 247, 248]), np.array([74, 163, 181])
    colour = (pale + (deep - pale) * min(max(share, 0.0), 1.0)).round().astype(int)
    return "#" + "".join(f"{channel:02x}" for channel in colour)


def picture(
    image: np.ndarray, reference: np.ndarray | None = None, prediction: np.ndarray | None = None
) -> str:
    """Return an image as a PNG data URI, label maps (H, W) of its size drawn as outlines.

    (H, W) of any type is grey between its percentiles, (H, W, 3) uint8 is in colour as it is.
    """
    shown = image if image.ndim == 3 else np.repeat(_grey(image)[:, :, None], 3, axis=2)
    times = max(round(_PICTURE / max(shown.shape[:2])), 1)
    rgb = _enlarged(shown.astype(np.uint8, copy=False), times)
    for labels, colour, width in ((reference, REFERENCE, 3), (prediction, PREDICTION, 2)):
        if labels is not None:
            rgb[_edges(_enlarged(labels, times), width)] = colour
    out = io.BytesIO()
    mpl_image.imsave(out, rgb, format="png")
    return "data:image/png;base64," + base64.b64encode(out.getvalue()).decode()


def _grey(image: np.ndarray) -> np.ndarray:
    """Return uint8 between the 1st and the 99th percentile of the finite pixels."""
    pixels = np.nan_to_num(np.asarray(image, np.float64))
    low, high = np.percentile(pixels, (1, 99))
    span = high - low if high > low else 1.0
    grey: np.ndarray = np.clip((pixels - low) / span, 0, 1) * 255
    return grey.astype(np.uint8)


def _enlarged(pixels: np.ndarray, times: int) -> np.ndarray:
    larger: np.ndarray = pixels.repeat(times, axis=0).repeat(times, axis=1)
    return larger


def _edges(labels: np.ndarray, width: int) -> np.ndarray:
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
    """Return a figure as <svg> to stand in a page: no prologue, no metadata, ids of its own."""
    out = io.StringIO()
    with mpl.rc_context({**_STYLE, "svg.hashsalt": name}):
        figure.savefig(
            out,
            format="svg",
            metadata={"Date": None, "Creator": None, "Format": None, "Type": None},
        )
    text = out.getvalue()
    text = text[text.index("<svg") :]
    # A style sheet inside would hold for the whole page, and the page has its own font.
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
    return opening + text[head.end() :].strip()


def _attribute(text: str) -> str:
    for raw, escaped in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;"), ('"', "&quot;")):
        text = text.replace(raw, escaped)
    return text
