"""What the values of masks mean: numbers, colours, a threshold, or one file per structure.

Without settings, all masks of the source are examined. Numbers then are classes, and 0 is the
background; if masks hold only 0 and 255, 255 is the foreground. The user must name colours and the
many levels of masks that were saved as JPEG or smoothed: only their maker knows what they mean. The
same holds for 255 beside a few numbers: it is a class, or marks unlabelled pixels, which are called
`ignore` as in nnU-Net.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from loaders.cases import JSON, MAX_CLASSES, Array, BadCase, BadSource, Meta
from loaders.datasets.pairs.consensus import CONSENSUS
from loaders.datasets.pairs.matching import Pair
from loaders.datasets.pairs.seen_masks import read_and_keep
from loaders.formats.levels import counts_of_bytes, two_levels
from loaders.formats.nifti import MAX_LABEL, NiftiError, agree, filled, whole_numbers
from loaders.formats.pictures import MaskPicture
from loaders.formats.scans.masks import Masks
from loaders.formats.scans.scan import Scan, read_scan
from loaders.formats.volumes.open import open_volume, volume_stem
from loaders.formats.volumes.volume import Volume

_ENTRY = re.compile(r"\s*(?:(#?[0-9a-fA-F]{6}|[0-9]{1,5})\s*=)?\s*([^=]+?)\s*")
# The most colours or levels in a message.
_SHOWN = 8
# A mask with more levels, one of them white, has smoothed edges (assumption).
_MANY = 16
# The most classes in a picture; one with more levels is a grey image (assumption).
_MOST_IN_A_PICTURE = 64
# The share of masks that may differ from the rest and are rejected (assumption).
_ODD = 1 / 4
_WHITE = (255, MAX_LABEL)
# No class has this index: a set has fewer classes.
_NO_CLASS = MAX_CLASSES - 1
# The name for voxels that belong to no class and are ignored.
IGNORE = "ignore"
# The number with which PASCAL VOC and others mark unlabelled pixels, and its colour there.
_VOID, _VOID_COLOUR = 255, 0xE0E0C0
# Numbers below this are classes, levels above are meant to be seen as greys (assumption).
_FEW = 32
# Overlapping structures are bits of a 64-bit number.
_MOST_OVERLAPPING = 62


@dataclass(frozen=True, kw_only=True)
class Coding:
    """How a mask becomes classes: `values[i]` means class `classes_of[i]`.

    `ignore` is the first value of ignored voxels, whose class is one above all others; None: there
    are none. `way` is numbers, colours (as 0xRRGGBB), threshold (foreground from there on) or
    structures (named by `structures`; `values` are sums of 2**n if `overlap` is regions). If
    `several` is a rule of CONSENSUS, several masks of an image are those of different readers;
    otherwise they are parts of one mask.
    """

    way: str
    classes: tuple[str, ...]
    values: tuple[int, ...] = ()
    classes_of: tuple[int, ...] = ()
    structures: tuple[str, ...] = ()
    threshold: int = 0
    nearest: bool = False
    overlap: str = "refuse"
    several: str = ""
    ignore: int | None = None
    regions: Mapping[str, tuple[int, ...]] = field(default_factory=dict)

    def told(self) -> dict[str, JSON]:
        """Return the fields that differ from their defaults, for a meta's options."""
        told: dict[str, JSON] = {"way": self.way, "overlap": self.overlap}
        for name, called in _TOLD.items():
            if value := getattr(self, name):
                told[called] = value
        if self.ignore is not None:
            told[IGNORE] = self.ignore
        return told

    @staticmethod
    def of(meta: Meta) -> "Coding":
        """Return the coding that a meta's options describe."""
        known: dict[str, Any] = meta.options
        more = {name: known[as_] for name, as_ in _TOLD.items() if as_ in known}
        return Coding(way=known["way"], classes=meta.classes, overlap=known["overlap"], **more)


# The fields of a coding, and their names in a meta's options.
_TOLD = {
    "values": "label_values",
    "classes_of": "classes_of",
    "structures": "structures",
    "threshold": "threshold",
    "nearest": "nearest",
    "several": "several",
}


def coding_of(
    pairs: Sequence[Pair], structures: Sequence[str], chosen: Mapping[str, Any], *, flat: bool
) -> Coding:
    """Return the chosen or detected coding; `flat`: masks are pictures. Raises BadSource."""
    _check(chosen, structures)
    if structures:
        coding = _of_structures(pairs, structures, chosen, flat=flat)
    elif chosen["threshold"]:
        names = _names(chosen["labels"]) or [(None, "background"), (None, "foreground")]
        if len(names) != 2:
            raise BadSource("option threshold makes two classes: labels must name two, or none")
        coding = Coding(
            way="threshold",
            classes=tuple(name for _, name in names),
            threshold=chosen["threshold"],
        )
    elif chosen["palette"]:
        coding = _named("colours", _names(chosen["palette"]), chosen)
    elif chosen["labels"]:
        coding = _named("numbers", _names(chosen["labels"]), chosen)
    else:
        coding = _found(pairs, chosen, flat=flat)
    most = MAX_CLASSES - 1 - (coding.ignore is not None)
    if not 2 <= len(coding.classes) <= most:
        raise BadSource(
            f"the masks have {len(coding.classes)} classes including the background; 2 to {most} "
            "are allowed"
        )
    more = {"regions": _regions(chosen["regions"], coding), "several": _rule(chosen)}
    return Coding(**{**vars(coding), **more})


def _rule(chosen: Mapping[str, Any]) -> str:
    """Return the rule that combines readers' masks; empty: several masks are parts of one."""
    return chosen["several"] if chosen["several"] in CONSENSUS else ""


def _check(chosen: Mapping[str, Any], structures: Sequence[str]) -> None:
    choices = {
        "missing": ("reject", "empty"),
        "several": ("refuse", "union", *CONSENSUS),
        "overlap": ("refuse", "last", "regions"),
    }
    for name, values in choices.items():
        if chosen[name] not in values:
            raise BadSource(f"option {name} is {chosen[name]!r}; it must be {' or '.join(values)}")
    if not 0 <= chosen["threshold"] <= MAX_LABEL:
        raise BadSource(f"option threshold is {chosen['threshold']}; it must be 0 to {MAX_LABEL}")
    if chosen["labels"] and chosen["palette"]:
        raise BadSource("options labels and palette both name the classes: leave one out")
    if chosen["palette"] and chosen["threshold"]:
        raise BadSource("options palette and threshold exclude each other: leave one out")
    if structures and (chosen["labels"] or chosen["palette"]):
        raise BadSource(
            "with one mask per structure, the files name the classes: leave out labels and palette"
        )


# ---- chosen -----------------------------------------------------------------------------------


def _names(text: str) -> list[tuple[int | str | None, str]]:
    """Return the values and names of `0=background,255=lesion` or `background,lesion`."""
    found: list[tuple[int | str | None, str]] = []
    for entry in text.split(",") if text else ():
        match = _ENTRY.fullmatch(entry)
        if not match:
            raise BadSource(
                f"{entry.strip()!r} names no class: write VALUE=NAME,... or NAME,..., the "
                "background first"
            )
        found.append((match[1], match[2]))
    if len({value is None for value, _ in found}) > 1:
        raise BadSource(f"{text!r} gives a value to some classes but not to all")
    return found


def _named(
    way: str, names: Sequence[tuple[int | str | None, str]], chosen: Mapping[str, Any]
) -> Coding:
    option = "palette" if way == "colours" else "labels"
    values = []
    for at, (value, name) in enumerate(names):
        text = str(at if value is None else value)
        if way == "colours":
            if value is None or len(text.lstrip("#")) != 6:
                raise BadSource(
                    f"option palette has no colour for {name!r}: write #RRGGBB=NAME,..., the "
                    "background first"
                )
            values.append(int(text.lstrip("#"), 16))
        elif not text.isdecimal() or int(text) > MAX_LABEL:
            raise BadSource(
                f"option labels has {text!r} for {name!r}; a value is 0 to {MAX_LABEL}; for "
                "colours set palette"
            )
        else:
            values.append(int(text))
    if len(set(values)) < len(values):
        raise BadSource(f"option {option} gives two names to one value")
    titles = [name for _, name in names]
    if way == "numbers" and 0 not in values:
        values, titles = [0, *values], ["background", *titles]
    classes = [name for name in dict.fromkeys(titles) if name != IGNORE]
    numbered = [*classes, IGNORE]
    return Coding(
        way=way,
        classes=tuple(classes),
        values=tuple(values),
        classes_of=tuple(numbered.index(name) for name in titles),
        nearest=chosen["nearest"],
        ignore=values[titles.index(IGNORE)] if IGNORE in titles else None,
    )


def _regions(text: str, coding: Coding) -> dict[str, tuple[int, ...]]:
    """Return the scored regions of `liver=liver+tumour,tumour=tumour`; if empty, each class."""
    if not text:
        alone: dict[str, tuple[int, ...]] = {
            name: (at,) for at, name in enumerate(coding.classes) if at
        }
        return dict(coding.regions) or alone
    numbers = {name: at for at, name in enumerate(coding.classes) if at}
    found = {}
    for entry in text.split(","):
        name, equals, union = entry.partition("=")
        members = [part.strip() for part in union.split("+")]
        if not equals or not name.strip() or any(member not in numbers for member in members):
            raise BadSource(
                f"option regions has {entry.strip()!r}: write NAME=CLASS+CLASS,...; the classes "
                f"are: {', '.join(numbers)}"
            )
        found[name.strip()] = tuple(sorted(numbers[member] for member in members))
    return found


# ---- detected ---------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class _Seen:
    """What one mask holds: the pixels of each level or colour, and the colours of its numbers."""

    levels: Counter[int]
    colours: Counter[int]
    palette: Mapping[int, int] = field(default_factory=dict)
    lossy: bool = False
    flat: bool = True

    @property
    def plain(self) -> bool:
        """Whether its levels can be classes: not in colour, not JPEG, no smoothed edges."""
        count = len(self.levels)
        smoothed = count > _MANY and max(self.levels) in _WHITE
        grey = self.flat and count > _MOST_IN_A_PICTURE
        return not (self.colours or smoothed or grey or (self.lossy and count > 2))


def _found(pairs: Sequence[Pair], chosen: Mapping[str, Any], *, flat: bool) -> Coding:
    every = []
    for path in (path for pair in pairs for paths in pair.masks.values() for path in paths):
        try:
            every.append(_looked_at(path, flat=flat, nan=chosen["nan"]))
        except (BadCase, NiftiError):
            continue  # reported when it is read
    plain = [seen for seen in every if seen.plain]
    # A few exceptions are rejected when they are read.
    if len(every) - len(plain) <= _ODD * len(every):
        every = plain
    if colours := sum((seen.colours for seen in every), Counter[int]()):
        raise BadSource(_ask_for_colours(colours))
    _check_palettes(every)
    counts = sum((seen.levels for seen in every), Counter[int]())
    levels = sorted({0, *counts})
    if len(levels) < 2:
        raise BadSource("the masks hold only 0, or none of them can be read: set labels=VALUE=NAME")
    if not all(seen.plain for seen in every):
        share = (counts[0] + counts[levels[-1]]) / sum(counts.values())
        raise BadSource(
            f"the masks hold {len(levels)} levels, {share:.1%} of their pixels 0 or {levels[-1]}, "
            "as after JPEG or smoothing, or as in images: for two classes set "
            f"threshold={(levels[-1] + 1) // 2}; for more, save the masks as PNG and set "
            "labels=NAME,NAME,..."
        )
    if len(levels) > MAX_CLASSES - 1:
        raise BadSource(
            f"the masks hold {len(levels)} levels, from 0 to {levels[-1]}, but a set has at most "
            f"{MAX_CLASSES - 2} classes beside the background: are they masks? If so, set "
            "labels=VALUE=NAME,... or threshold=LEVEL"
        )
    if len(levels) == 2 and levels[1] in _WHITE:
        names = ["background", "foreground"]
    else:
        names = [f"label_{level}" if level else "background" for level in levels]
    if len(levels) > 2 and levels[-1] == _VOID and levels[-2] < _FEW:
        names[-1] = IGNORE
        listed = ",".join(map("{}={}".format, levels, names))
        raise BadSource(
            f"the masks hold numbers up to {levels[-2]}, and {_VOID}, which marks unlabelled "
            f"pixels in PASCAL VOC and many others. If so here, set 'labels={listed}', with "
            f"names of your own for label_N; if it is a class, put its name in place of {IGNORE}"
        )
    return Coding(
        way="numbers",
        classes=tuple(names),
        values=tuple(levels),
        classes_of=tuple(range(len(levels))),
    )


def _looked_at(path: Path, *, flat: bool, nan: str) -> _Seen:
    mask = loader(flat=flat, nan=nan)(path, "")
    if mask.levels is None:
        assert mask.colours is not None  # a mask has one of the two
        numbers, counts = np.unique(mask.colours, return_counts=True)
        of_colours = dict(zip(numbers.tolist(), counts.tolist(), strict=True))
        return _Seen(levels=Counter(), colours=Counter(of_colours))
    levels = whole_numbers(mask.levels)
    palette = {}
    if mask.colours is not None:
        for number, first in zip(*np.unique(levels, return_index=True), strict=True):
            palette[int(number)] = int(mask.colours.flat[first])
    return _Seen(
        levels=Counter(_counts(levels)),
        colours=Counter(),
        palette=palette,
        lossy=mask.lossy,
        flat=flat,
    )


def _check_palettes(every: Iterable[_Seen]) -> None:
    """Raise BadSource if one number has several colours: the program numbered them per file."""
    known: dict[int, int] = {}
    for seen in every:
        for number, colour in seen.palette.items():
            if (other := known.setdefault(number, colour)) != colour:
                raise BadSource(
                    f"number {number} is {_hex(other)} in the palette of one mask and "
                    f"{_hex(colour)} in that of another, so the numbers mean nothing: name the "
                    "colours, the background first: "
                    f"'palette={_hex(other)}=NAME,{_hex(colour)}=NAME'"
                )


def _counts(levels: Array) -> dict[int, int]:
    if levels.dtype == np.uint8 and (two := two_levels(levels)):
        level, count = two
        return {0: levels.size - count, level: count} if count < levels.size else {level: count}
    flat = levels.ravel(order="K")
    counts = counts_of_bytes(flat) if levels.dtype == np.uint8 else np.bincount(flat)
    return {int(level): int(counts[level]) for level in np.flatnonzero(counts)}


def _ask_for_colours(colours: Counter[int]) -> str:
    most = colours.most_common(_SHOWN)
    shown = ", ".join(f"{_hex(colour)} ({count} pixels)" for colour, count in most)
    if len(colours) > _SHOWN:
        shown += (
            f" and {len(colours) - _SHOWN} more, as after JPEG or smoothing: with nearest=true "
            "those are read as the nearest named colour"
        )
    names = {_VOID_COLOUR: IGNORE, most[0][0]: "background"}
    palette = ",".join(f"{_hex(colour)}={names.get(colour, 'NAME')}" for colour, _ in most)
    return (
        f"the masks are in colour, and the meaning of each colour is unknown. They hold {shown}. "
        f"Name the colours of classes, the background first, and call unlabelled pixels {IGNORE}: "
        f"'palette={palette}'"
    )


def _hex(colour: int) -> str:
    return f"#{colour:06x}"


# ---- one file per structure -------------------------------------------------------------------


def _of_structures(
    pairs: Sequence[Pair], structures: Sequence[str], chosen: Mapping[str, Any], *, flat: bool
) -> Coding:
    coding = Coding(
        way="structures",
        classes=("background", *structures),
        structures=tuple(structures),
        threshold=chosen["threshold"],
        overlap=chosen["overlap"],
        several=_rule(chosen),
    )
    if chosen["overlap"] != "regions":
        return coding
    if len(structures) > _MOST_OVERLAPPING:
        raise BadSource(
            f"overlap=regions allows up to {_MOST_OVERLAPPING} structures, but there are "
            f"{len(structures)}: choose some with structures=NAME,NAME"
        )
    alone = {1 << at for at in range(len(structures))}
    found = {0, *alone}
    # A single structure overlaps nothing.
    for pair in pairs if len(structures) > 1 else ():
        try:
            load = loader(flat=flat, nan=chosen["nan"])
            if pair.slices:
                scan = read_scan(pair.slices, "")
                load = series_loader(
                    scan,
                    chosen["shift"],
                    coding,
                    nan=chosen["nan"],
                    union=chosen["several"] == "union",
                )
            found |= set(np.unique(bits_of(pair.masks, coding, load)).tolist())
        except (BadCase, NiftiError):
            continue  # reported when it is read
    values = [0, *sorted(alone), *sorted(found - alone - {0})]
    members = [
        tuple(name for at, name in enumerate(structures) if value >> at & 1) for value in values
    ]
    return Coding(
        **{
            **vars(coding),
            "classes": ("background", *("+".join(names) for names in members[1:])),
            "values": tuple(values),
            "classes_of": tuple(range(len(values))),
            "regions": {
                name: tuple(at for at, names in enumerate(members) if name in names)
                for name in structures
            },
        }
    )


# ---- one mask ---------------------------------------------------------------------------------

# (file, name of the structure to read from it, "" for all) -> the mask.
Load = Callable[[Path, str], MaskPicture]


def loader(*, flat: bool, nan: str) -> Load:
    """Return the function that reads a survey's masks: raises BadCase (pictures) or NiftiError."""

    def load(path: Path, _name: str) -> MaskPicture:
        if flat:
            return read_and_keep(path, "")
        voxels = open_volume(path).load()
        return MaskPicture(levels=filled(voxels, 0) if nan == "fill" else voxels)

    return load


def series_loader(scan: Scan, shift: float, coding: Coding, *, nan: str, union: bool) -> Load:
    """Return the function that reads a DICOM or volume mask onto the voxels of a DICOM series.

    It raises BadCase and NiftiError.
    """
    masks = Masks(scan=scan, shift=shift, threshold=coding.threshold, where="")

    def load(path: Path, name: str) -> MaskPicture:
        if volume_stem(path.name) is None:
            # Voxels inside must be above the threshold, whatever it is.
            inside = masks.load(path, name, union=union).astype(np.uint16)
            return MaskPicture(levels=inside * max(coding.threshold, 1))
        label = volume_of("label", path)
        agree([scan.volume], label, shift)
        voxels = label.load()
        return MaskPicture(levels=filled(voxels, 0) if nan == "fill" else voxels)

    return load


def volume_of(what: str, path: Path) -> Volume:
    """Return a volume; raises NiftiError, whose message names `what`."""
    try:
        return open_volume(path)
    except NiftiError as error:
        raise NiftiError(f"the {what} {error}") from None


def answer(
    masks: Mapping[str, Sequence[Path]], coding: Coding, load: Load, shape: tuple[int, ...]
) -> Array:
    """Return the classes of a case's masks (`shape`) as uint8; raises NiftiError or BadCase.

    All masks must have that shape; without masks, every voxel is background.
    """

    def shaped(path: Path, name: str) -> MaskPicture:
        mask = load(path, name)
        found = (mask.colours if mask.levels is None else mask.levels).shape  # type: ignore[union-attr]  # one of the two is set
        if found != shape:
            sizes = [" x ".join(map(str, size)) for size in (found, shape)]
            turned = ": one of them is rotated" if found == shape[::-1] else ""
            raise NiftiError(f"the mask is {sizes[0]}, but the image {sizes[1]}{turned}")
        return mask

    out = np.zeros(shape, np.uint8)
    if coding.way != "structures" and coding.several in CONSENSUS:
        drawn = [classes_of(shaped(path, ""), coding) for path in masks[""]]
        return CONSENSUS[coding.several](np.stack(drawn)) if drawn else out
    if coding.way != "structures":
        for number, path in enumerate(masks[""]):
            mine = classes_of(shaped(path, ""), coding)
            if number and ((out > 0) & (mine > 0) & (out != mine)).any():
                raise NiftiError("its masks give a voxel two classes, so they cannot be united")
            out = np.where(mine > 0, mine, out) if number else mine
        return out
    if coding.overlap == "regions":
        return looked_up(np.broadcast_to(bits_of(masks, coding, shaped), shape), coding)
    for number, name in enumerate(coding.structures, start=1):
        inside = _inside(masks, coding, shaped, name)
        if inside is None:
            continue
        below = out[inside]
        if coding.overlap == "refuse" and below.any():
            other = coding.structures[int(below[below > 0][0]) - 1]
            raise NiftiError(
                f"{other} and {name} overlap in {np.count_nonzero(below)} voxels: "
                "overlap=regions would keep both, overlap=last the last one"
            )
        out[inside] = number
    return out


def classes_of(mask: MaskPicture, coding: Coding) -> Array:
    """Return the classes of a mask that holds all classes; raises NiftiError."""
    if coding.way == "colours":
        if mask.colours is not None:
            return looked_up(mask.colours, coding)
        # Black, white and grey are colours too.
        grey = whole_numbers(mask.levels)  # type: ignore[arg-type]  # one of the two is set
        return looked_up(grey.astype(np.int64) * 0x010101, coding)
    if mask.levels is None:
        raise NiftiError("the mask is in colour, but those of the set hold numbers")
    levels = whole_numbers(mask.levels)
    if coding.way == "threshold":
        return (levels >= coding.threshold).astype(np.uint8)
    return looked_up(levels, coding)


def looked_up(values: Array, coding: Coding) -> Array:
    """Return the class of each value as uint8; raises NiftiError if a value has none.

    If `nearest`, a colour is read as the nearest one with a class, by Euclidean distance in RGB.
    """
    known = np.array(coding.values, dtype=np.int64)
    classes = np.array(coding.classes_of, dtype=np.uint8)
    if values.dtype in (np.uint8, np.uint16) and known.max() <= MAX_LABEL:
        # This covers most masks, in a thirtieth of the time of sorting (measured).
        table = np.full(MAX_LABEL + 1, _NO_CLASS, np.uint8)
        table[known] = classes
        if values.dtype == np.uint8:
            # Python's own bytes.translate halves that again (measured).
            flat = values.tobytes().translate(table[:256].tobytes())
            taken: Array = np.frombuffer(flat, np.uint8).reshape(values.shape)
        else:
            taken = np.take(table, values)
        if taken.max() != _NO_CLASS:
            return taken
    order = np.argsort(known)
    found, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    if coding.nearest and coding.way == "colours":
        parts = [np.stack([each >> 16, each >> 8 & 255, each & 255], -1) for each in (found, known)]
        apart = np.square(parts[0][:, np.newaxis] - parts[1]).sum(axis=-1)
        nearest: Array = classes[apart.argmin(axis=1)][inverse].reshape(values.shape)
        return nearest
    place = np.minimum(np.searchsorted(known, found, sorter=order), len(known) - 1)
    place = order[place]
    if (strange := known[place] != found).any():
        raise NiftiError(_unknown(coding, found[strange].tolist(), int(counts[strange].sum())))
    exact: Array = classes[place][inverse].reshape(values.shape)
    return exact


def _unknown(coding: Coding, strange: Sequence[int], count: int) -> str:
    if coding.way == "structures":
        return f"{count} voxels lie in a combination of structures that no other mask has"
    shown = _hex if coding.way == "colours" else str
    more = f" and {len(strange) - 1} more unknown values" if len(strange) > 1 else ""
    known = ", ".join(shown(value) for value in coding.values)
    return f"the mask holds {shown(strange[0])}{more}, in {count} pixels; known values are {known}"


def bits_of(masks: Mapping[str, Sequence[Path]], coding: Coding, load: Load) -> Array:
    """Return the sum of 2**n over the structures n of each voxel; a scalar 0 without any file."""
    bits: Array = np.zeros((), np.int64)
    for number, name in enumerate(coding.structures):
        inside = _inside(masks, coding, load, name)
        if inside is not None:
            bits = bits | (inside.astype(np.int64) << number)
    return bits


def _inside(
    masks: Mapping[str, Sequence[Path]], coding: Coding, load: Load, name: str
) -> Array | None:
    """Return the voxels of a structure, None if it has no file; raises NiftiError.

    Readers who drew another structure of the case but not this one count as marking it empty.
    """
    inside: Array | None = None
    drawn: list[Array] = []
    for path in masks[name]:
        mask = load(path, name)
        if mask.levels is None:
            raise NiftiError(f"the mask of {name} is in colour, not black and white")
        levels = whole_numbers(mask.levels)
        here = levels >= (coding.threshold or 1)
        if not coding.threshold and len(several := np.unique(levels[here])) > 1:
            raise NiftiError(
                f"the mask of {name} holds {len(several)} levels besides 0: set "
                f"threshold={(int(several[-1]) + 1) // 2}, or save it in black and white"
            )
        if inside is not None and here.shape != inside.shape:
            raise NiftiError(f"the masks of {name} differ in size")
        inside = here if inside is None else inside | here
        if coding.several in CONSENSUS:
            drawn.append(here)
    readers = max(map(len, masks.values()))
    if inside is not None and coding.several in CONSENSUS and readers > 1:
        drawn += [np.zeros_like(inside)] * (readers - len(drawn))
        return CONSENSUS[coding.several](np.stack(drawn).astype(np.uint8)) > 0
    return inside
