"""The content of `medopt show`: some cases that cover every class of a store, and counts."""

import shlex
from collections import Counter
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from bench.study.dataset import described
from bench.training.examples import chosen
from loaders.cases import Array, Meta
from loaders.store.layout import REJECTED, read_table
from loaders.store.read import Store
from results.look.content import Content, Levels, Plane, Shown
from results.tables.tasks import answer_of

# Fewest pixels per side of a plane worth showing; how many frames of a loop, channels beside the
# first, and sizes are shown; how many names in an answer. Assumptions.
_THINNEST, _FRAMES, _CHANNELS, _SIZES, _NAMES = 8, 4, 3, 10, 6
_COLOURS = ("red", "green", "blue")
# Bins of a histogram on the page, and the much finer bins from which it is made.
_BINS, _FINE = 48, 2048
_AXES = {"z": "axial", "y": "coronal", "x": "sagittal"}


def content(store: Store, cases: int, seed: int, told: Callable[[int, int], None]) -> Content:
    """Return the content of a store's page, with at most `cases` cases chosen by `seed`.

    `told` is called with (cases drawn, cases in all). Raises StoreError if an array cannot be read.
    """
    held = _held(store)
    order = np.random.default_rng(seed).permutation(len(store))
    picked = [int(order[at]) for at in chosen(held[order], cases)]
    shown = []
    by = store.numbers[:, 0] if answer_of(store.meta.task) == "number" else store.labels
    for case in sorted(picked, key=lambda case: (float(by[case]), case)):
        shown.append(_shown(store, case))
        told(len(shown), len(picked))
    units = [_unit(axis) for axis in store.meta.axes]
    spacings = [_spacing(lengths, units) for lengths in store.spacing.tolist()]
    sizes = Counter(zip(map(_by, store.shapes.tolist()), spacings, strict=True))
    rejected: dict[str, list[str]] = {}
    for row in read_table(store.path / "rejected.parquet", REJECTED).to_pylist():
        rejected.setdefault(row["reason"], []).append(row["case_id"])
    return Content(
        name=store.meta.name,
        task=store.meta.task,
        data=described(store),
        warnings=store.warnings,
        cases=shown,
        covered=(int(held[picked].any(axis=0).sum()), int(held.any(axis=0).sum())),
        seed=seed,
        counts=dict(_counts(store)),
        sizes=[(*known, number) for known, number in sizes.most_common(_SIZES)],
        n_sizes=len(sizes),
        levels=[_levels(store, channel) for channel in range(len(store.meta.channels))],
        nonzero=store.meta.normalize == "case",
        rejected=rejected,
        again=shlex.join(["medopt", "prepare", store.meta.kind, "SOURCE", "--dry-run"]),
    )


def _held(store: Store) -> Array:
    """Return which kinds of answer each case has, (n, kinds) bool: classes, findings, or none.

    For numbers, it is the quarter of all of them that the case is in.
    """
    answer = answer_of(store.meta.task)
    if answer == "number":
        numbers = store.numbers[:, 0]
        quarter = np.searchsorted(np.quantile(numbers, (0.25, 0.5, 0.75)), numbers)
        return np.equal.outer(quarter, np.arange(4))
    held = store.class_counts > 0
    if answer == "class":
        return held
    held = held[:, 1:] if answer == "mask" else held
    return np.column_stack([held, ~held.any(axis=1)])


# ---- one case ---------------------------------------------------------------------------------


def _shown(store: Store, case: int) -> Shown:
    units = [_unit(axis) for axis in store.meta.axes]
    facts = [_by(store.shapes[case].tolist()), _spacing(store.spacing[case].tolist(), units)]
    part = store.splits[case]
    return Shown(
        case_id=store.case_ids[case],
        answer=_answer(store, case),
        facts=", ".join([*facts, *([part] if part else [])]),
        planes=tuple(_planes(store, case)),
    )


def _answer(store: Store, case: int) -> str:
    """Return the answer of a case in words."""
    meta = store.meta
    answer = answer_of(meta.task)
    if answer == "class":
        return meta.classes[int(store.labels[case])]
    if answer == "number":
        return f"{meta.classes[0]} {store.numbers[case, 0]:.4g}"
    held = [
        name for name, number in zip(meta.classes, store.class_counts[case], strict=True) if number
    ]
    if answer == "mask":
        return _listed(held[int(store.class_counts[case, 0] > 0) :]) or "nothing outlined"
    missing = int(np.isnan(store.numbers[case]).sum())
    told = f", {missing} not known" if missing else ""
    return f"{_listed(held) or 'no finding'}{told}"


def _listed(names: Sequence[str]) -> str:
    more = len(names) - _NAMES
    return ", ".join(names[:_NAMES]) + (f" and {more} more" if more > 0 else "")


def _planes(store: Store, case: int) -> Iterator[Plane]:
    """Yield the planes of a case to show: a picture, planes through a volume, frames of a loop.

    Channels other than the first (unless they are red, green and blue) show only the first plane.
    """
    meta = store.meta
    image = store.image(case)
    mask = store.mask(case) if meta.masked else None
    lengths = [mm if np.isfinite(mm) and mm > 0 else 1.0 for mm in store.spacing[case]]
    colour = meta.channels == _COLOURS
    for number, (axis, at) in enumerate(_places(meta, image.shape[1:], mask)):
        name = "" if axis is None else _plane_name(meta, axis, at, image.shape[axis + 1])
        labels = None if mask is None else np.array(_cut(mask, axis, at))
        sides = [length for each, length in enumerate(lengths) if each != axis]
        for channel in (0,) if colour or number else range(min(_CHANNELS + 1, len(image))):
            pixels = np.array(
                _cut(image if colour else image[channel], axis, at, first=int(colour))
            )
            words = [meta.channels[channel]] if len(image) > 1 and not colour else []
            yield Plane(
                name=", ".join([*words, *([name] if name else [])]),
                image=_as_bytes(np.moveaxis(pixels, 0, -1)) if colour else pixels,
                labels=labels,
                pixel=(sides[0], sides[1]),
            )


def _cut(values: Array, axis: int | None, at: int, first: int = 0) -> Array:
    return values if axis is None else values.take(at, axis=axis + first)


def _as_bytes(image: Array) -> Array:
    """Return colours as uint8; deeper ones are scaled from their lowest to their highest value."""
    if image.dtype == np.uint8:
        return image
    low, span = float(image.min()), float(image.max()) - float(image.min())
    return np.asarray(((image - low) * (255 / (span or 1.0))).round().astype(np.uint8))


def _plane_name(meta: Meta, axis: int, at: int, of: int) -> str:
    if meta.axes[axis] == "t":
        return f"frame {at + 1} of {of}"
    return f"{_AXES[meta.axes[axis]]}, {meta.axes[axis]} {at + 1} of {of}"


def _places(
    meta: Meta, shape: Sequence[int], mask: Array | None
) -> Iterator[tuple[int | None, int]]:
    """Yield the axis and the place of each plane: frames of a loop, or a plane across each axis.

    A volume is cut where most classes are, then where most is outlined, else in its middle. Planes
    that are too thin are left out, except the one that shows most.
    """
    if meta.dims == 2:
        yield None, 0
        return
    if meta.axes[0] == "t":
        frames = np.linspace(0, shape[0] - 1, min(_FRAMES, shape[0])).round().astype(int)
        yield from ((0, int(at)) for at in frames)
        return
    sides = [[side for other, side in enumerate(shape) if other != axis] for axis in range(3)]
    wide = [axis for axis in range(3) if min(sides[axis]) >= _THINNEST]
    for axis in wide or [max(range(3), key=lambda axis: (min(sides[axis]), -axis))]:
        yield axis, shape[axis] // 2 if mask is None else _fullest(mask, axis)


def _fullest(mask: Array, axis: int) -> int:
    """Return the place along an axis with most classes, and among those with most outlined."""
    middle = mask.shape[axis] // 2
    found = []
    for at in range(mask.shape[axis]):
        counts = np.bincount(np.ravel(mask.take(at, axis=axis)))[1:]
        found.append((np.count_nonzero(counts), int(counts.sum()), -abs(at - middle)))
    return max(range(len(found)), key=found.__getitem__)


# ---- all cases --------------------------------------------------------------------------------


def _counts(store: Store) -> Iterator[tuple[str, list[tuple[str, int]]]]:
    """Yield headings with (what, how many cases)."""
    meta = store.meta
    answer = answer_of(meta.task)
    numbers = (store.class_counts > 0).sum(axis=0).tolist()
    classes = list(zip(meta.classes, numbers, strict=True))
    if answer == "class":
        yield "Cases by class", classes
    if answer == "mask":
        empty = int((store.class_counts[:, 1:].sum(axis=1) == 0).sum())
        yield "Cases that hold a class", [*classes[1:], ("nothing outlined", empty)]
        there = (store.boxes >= 0).all(axis=(2, 3)).sum(axis=0).tolist()
        if set(meta.regions) - set(meta.classes):
            yield "Cases that hold a region", list(zip(meta.regions, there, strict=True))
    if answer == "findings":
        none = int((store.class_counts.sum(axis=1) == 0).sum())
        yield "Cases that show a finding", [*classes, ("no finding", none)]
        missing = np.isnan(store.numbers).sum(axis=0).tolist()
        if any(missing):
            yield "Cases whose finding is not known", list(zip(meta.classes, missing, strict=True))
    if answer == "number":
        yield f"Cases by {meta.classes[0]}", _binned(store.numbers[:, 0])
    parts = Counter(part for part in store.splits if part)
    if parts:
        yield "Cases by official part", sorted(parts.items())
    for name in store.columns:
        values = Counter(value for value in store.column(name) if value is not None)
        lines = [(f"value {value}", number) for value, number in sorted(values.items())]
        yield f"Cases by {name}, whose values are numbered", lines
    held = Counter(Counter(store.groups).values())
    whose = "no patient is named" if meta.group_source == "case" else meta.group_source
    yield (
        f"Groups by how many cases they hold ({whose})",
        [(f"{size} {'case' if size == 1 else 'cases'}", n) for size, n in sorted(held.items())],
    )


def _binned(numbers: Array) -> list[tuple[str, int]]:
    counts, edges = np.histogram(numbers, bins=10)
    return [
        (f"{low:.4g} to {high:.4g}", int(number))
        for low, high, number in zip(edges[:-1], edges[1:], counts, strict=True)
    ]


def _levels(store: Store, channel: int) -> Levels:
    """Return the distribution of a channel's values, each case with the same weight.

    A store has 64 equal bins for each case between its extremes; within a bin, values count as
    uniform. A thousandth at each end is left out.
    """
    lows, highs = (ends[:, channel] for ends in store.extremes)
    counts = store.histograms[:, channel].astype(float)
    filled = np.flatnonzero(counts.sum(axis=1))  # a case of only zeros has no values
    if not len(filled):
        return Levels(
            channel=store.meta.channels[channel], edges=np.array([0.0, 1.0]), shares=np.zeros(1)
        )
    low, high = lows[filled].min(), highs[filled].max()
    fine = np.linspace(low, high if high > low else low + 1, _FINE + 1)
    below = np.zeros(_FINE + 1)
    for case in filled:
        ends = np.linspace(lows[case], highs[case], counts.shape[1] + 1)
        share = np.concatenate([[0.0], np.cumsum(counts[case])]) / counts[case].sum()
        below += np.interp(fine, ends, share) if highs[case] > lows[case] else fine > lows[case]
    below = below / len(filled)
    below[-1] = 1.0
    first = int(np.searchsorted(below, 0.001, side="right")) - 1
    last = int(np.searchsorted(below, 0.999))
    edges = np.linspace(fine[max(first, 0)], fine[last], _BINS + 1)
    shares = np.diff(np.interp(edges, fine, below))
    return Levels(channel=store.meta.channels[channel], edges=edges, shares=shares)


def _by(shape: Sequence[int]) -> str:
    return " × ".join(map(str, shape))


def _unit(axis: str) -> str:
    return "s" if axis == "t" else "mm"


def _spacing(lengths: Sequence[float], units: Sequence[str]) -> str:
    """Return `3 × 1 × 1 mm`, with a unit for each if they differ, `?` for an unknown one."""
    if not np.isfinite(lengths).any():
        return "spacing unknown"
    known = [f"{length:.3g}" if np.isfinite(length) else "?" for length in lengths]
    if len(set(units)) == 1:
        return f"{' × '.join(known)} {units[0]}"
    return " × ".join(f"{length} {unit}" for length, unit in zip(known, units, strict=True))
