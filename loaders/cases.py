"""Types shared by every reader and the store: a source's survey, its items, its cases."""

import difflib
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from loaders.targets import TARGETS, Numbers

# The class of a case, or its numbers; a missing number is None.
Label: TypeAlias = int | tuple[float | None, ...]
JSON: TypeAlias = "str | int | float | bool | Sequence[JSON] | Mapping[str, JSON] | None"
Array: TypeAlias = NDArray[Any]

# The types in which an image may be stored, smallest first.
IMAGE_TYPES: tuple[np.dtype[Any], ...] = tuple(
    np.dtype(name) for name in ("uint8", "int16", "uint16", "float32")
)
# The orders of spatial axes, by the number of axes; the first is the default. A cine loop is a 3-D
# image whose first axis is time.
AXES: Mapping[int, tuple[str, ...]] = {2: ("yx",), 3: ("zyx", "tyx")}
# A mask is uint8, so a data set has at most this many classes.
MAX_CLASSES = 256


class BadCase(ValueError):  # noqa: N818 - it names the case; "error" would suggest that the run broke
    """One case that cannot be used: the run goes on, and rejected.parquet keeps the reason.

    `reason` is stored, so it is one sentence without paths or identities. `where` is the path
    relative to the source; only the terminal shows it. `key` is the real identifier, which is
    stored as a keyed hash; None: that of the item.
    """

    def __init__(self, reason: str, *, where: str, key: str | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.where = where
        self.key = key

    def __reduce__(self) -> tuple[Callable[..., "BadCase"], tuple[str, str, str | None]]:
        # By default, exceptions are pickled with their positional arguments only.
        return _bad_case, (self.reason, self.where, self.key)


def _bad_case(reason: str, where: str, key: str | None) -> BadCase:
    return BadCase(reason, where=where, key=key)


def most_often(rejected: Collection[BadCase]) -> str:
    """Return the end of a sentence: why most cases were rejected; empty if none was.

    The first rejected case is often an exception; the commonest reason is the likely cause.
    """
    if not rejected:
        return ""
    ((reason, count),) = Counter(bad.reason for bad in rejected).most_common(1)
    where = next(bad.where for bad in rejected if bad.reason == reason)
    shown = "the first," if count in (1, len(rejected)) else f"{count} of them like"
    return f"; {len(rejected)} rejected, {shown} {where}: {reason}"


class BadSource(ValueError):  # noqa: N818 - as BadCase
    """A whole source that cannot be used: a missing folder, an unknown option, no usable case."""


@dataclass(frozen=True, kw_only=True)
class Meta:
    """What holds for every case of a store.

    `classes[i]` is the name of label i (in segmentation, 0 is the background), of finding i
    (multi-label), or of the number to predict (regression).
    `regions` names the foreground regions that are scored, each a union of labels; empty in
    classification. `positive` is the index of the positive class (the disease) in binary
    classification, else None.
    `normalize` says whose statistics normalise the intensities: "case" (each case's own; for MRI, a
    z-score over its non-zero voxels) or "train" (those of the training part; for CT and 2-D).
    `fill` is the raw value outside the image. `unit` is what a case is: "image", "lesion",
    "volume". `group_source` is what a group is: "patient", or "case" if the source has no column
    of patients.
    `options` are the reader's settings that shaped the arrays. `axes` names the spatial axes in
    order: "yx" or "zyx", which are the defaults, or "tyx" for cine loops.
    """

    kind: str
    name: str
    task: str
    dims: Literal[2, 3]
    channels: tuple[str, ...]
    classes: tuple[str, ...]
    regions: dict[str, tuple[int, ...]]
    positive: int | None
    normalize: Literal["case", "train"]
    fill: float
    unit: str
    group_source: str
    source: str
    licence: str
    options: dict[str, JSON]
    axes: str = ""

    def __post_init__(self) -> None:
        """Fill in the default axes; raises ValueError if a field has an impossible value."""
        if self.task not in TARGETS:
            raise ValueError(f"task is {self.task!r}; it must be {' or '.join(TARGETS)}")
        if self.dims not in (2, 3):
            raise ValueError(f"dims is {self.dims!r}; it must be 2 or 3")
        # Default axes follow `dims`, so that replace(meta, dims=2) works.
        if not self.axes or self.axes in (known[0] for known in AXES.values()):
            object.__setattr__(self, "axes", AXES[self.dims][0])
        if self.axes not in AXES[self.dims]:
            raise ValueError(f"axes is {self.axes!r}; it must be {' or '.join(AXES[self.dims])}")
        if self.normalize not in ("case", "train"):
            raise ValueError(f"normalize is {self.normalize!r}; it must be case or train")
        if not self.channels:
            raise ValueError("channels is empty")
        least, most = self._names
        if not least <= len(self.classes) <= most:
            count = len(self.classes)
            raise ValueError(f"there are {count} classes; {least} to {most} are allowed")
        if len(set(self.classes)) < len(self.classes):
            raise ValueError(f"two classes share a name: {', '.join(self.classes)}")
        if bool(self.regions) != self.masked:
            raise ValueError(f"{self.task} {'needs' if self.masked else 'takes no'} regions")
        for name, labels in self.regions.items():
            if not labels or not all(0 < label < len(self.classes) for label in labels):
                most = len(self.classes) - 1
                raise ValueError(f"region {name} unites labels {labels}; they are 1 to {most}")
        if self.positive is not None and self.numbers:
            raise ValueError(f"positive is {self.positive}; {self.task} has no positive class")
        if self.positive is not None and not 0 <= self.positive < len(self.classes) == 2:
            raise ValueError(f"positive is {self.positive} among {len(self.classes)} classes")

    @property
    def masked(self) -> bool:
        """Whether the answers are masks."""
        return TARGETS[self.task].masks

    @property
    def ignored(self) -> int | None:
        """The label of voxels that are ignored, one above the last class; None: there are none.

        A reader that finds such voxels records their value in the source as the option `ignore`.
        """
        return len(self.classes) if "ignore" in self.options else None

    @property
    def numbers(self) -> Numbers | None:
        """What numbers the answers are; None: they are classes or masks."""
        return TARGETS[self.task].numbers

    @property
    def _names(self) -> tuple[int, int]:
        """The smallest and the largest allowed number of classes."""
        if self.numbers is None:
            return 2, MAX_CLASSES
        return self.numbers.least, self.numbers.most or MAX_CLASSES


@dataclass(frozen=True, kw_only=True)
class Item:
    """One unit of reading work: cheap, picklable, and the source of one or more cases.

    `key` is the real identifier in the source; only its hash is stored. `cases` is the number of
    cases that the survey expects of the item; a scan may give more or none.
    """

    key: str
    paths: tuple[Path, ...]
    extra: dict[str, Any]
    cases: int = 1


@dataclass(frozen=True, kw_only=True)
class Case:
    """One image with its answer.

    - `key` and `group` are real identifiers, which the store hashes; `group` is `key` if the
      source has no group column.
    - `image` (C, *spatial) has one of IMAGE_TYPES. Its spatial axes are those of the meta's `axes`.
    - `label` is the class (classification), or a number for each name in the meta's `classes`
      (multi-label: 1 or 0; regression: the number); a missing number is None.
    - `mask` (*spatial) is the uint8 label map (segmentation).
    - `spacing` is in mm along z, y and x and in seconds along t; nan: unknown.
    - `split` is the source's official part; None: it has none.
    - `ratings` maps a scale to its readers' ratings, in the same order of readers on every scale;
      None: nobody rated. They are stored beside the answer and affect no trial.
    - `columns` maps a column by which a study may split (site, fold) to the number of the case's
      value there: whole numbers from 0 on, never the values, which may identify somebody.
    - `clinical` maps a clinical column (`loaders.datasets.clinical`) to a number, or to the index
      of a word in the meta's option `categories`; nan: missing.
    """

    key: str
    group: str
    image: Array
    label: Label | None
    mask: Array | None
    spacing: tuple[float, ...]
    split: str | None = None
    files: tuple[Path, ...] | None = None
    ratings: Mapping[str, Sequence[int]] | None = None
    columns: Mapping[str, int] | None = None
    clinical: Mapping[str, float] | None = None


@dataclass(frozen=True, kw_only=True)
class Survey:
    """What a source holds, found without reading its images."""

    meta: Meta
    items: tuple[Item, ...]
    rejected: tuple[BadCase, ...]


Read: TypeAlias = Callable[[Item, Meta], Iterator[Case | BadCase]]
# (options, progress(bytes fetched, bytes in total)) -> the fetched source.
Fetch: TypeAlias = Callable[[Mapping[str, Any], Callable[[int, int], None]], Path]


@dataclass(frozen=True, kw_only=True)
class Kind:
    """One row of `loaders.KINDS`: how a kind of source is read.

    `survey(source, options)` lists the source and raises BadSource. `read(item, meta)` yields an
    item's cases: it yields a BadCase for one case that cannot be used and goes on, or raises
    BadCase to reject the whole item. `options` maps each setting to its default and its
    description. `fetch` downloads the official files and raises BadSource; None: they are not
    freely available.
    """

    name: str
    summary: str
    source: str
    survey: Callable[[Path, Mapping[str, Any]], Survey]
    read: Read
    options: Mapping[str, tuple[JSON, str]]
    fetch: Fetch | None = None


def nearest(name: str, choices: Iterable[str]) -> str:
    """Return the end of a message about an unknown name: the choice most like it, if one is."""
    near = difflib.get_close_matches(name, list(choices), n=1)
    return f". Did you mean {near[0]!r}?" if near else ""


def settings(
    kind: str, options: Mapping[str, tuple[JSON, str]], given: Mapping[str, Any]
) -> dict[str, Any]:
    """Return every option of a kind: the given value in the type of its default, or the default.

    Values in `given` may be text, as on a command line. Raises BadSource for an unknown name and
    for a value that cannot be converted.
    """
    if unknown := sorted(set(given) - set(options)):
        known, near = ", ".join(options) or "none", nearest(unknown[0], options)
        raise BadSource(f"{kind} has no option {unknown[0]!r}; its options are: {known}{near}")
    return {
        name: _as_type_of(default, given[name], f"{kind} option {name}")
        if name in given
        else default
        for name, (default, _) in options.items()
    }


def _as_type_of(default: JSON, value: Any, what: str) -> JSON:
    wanted = type(default).__name__
    if isinstance(default, bool):
        known = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
        if str(value).lower() not in known:
            raise BadSource(f"{what} is {value!r}; it must be true or false")
        return known[str(value).lower()]
    if isinstance(default, int | float):
        try:
            return type(default)(value)
        except (TypeError, ValueError):
            raise BadSource(f"{what} is {value!r}; it must be of type {wanted}") from None
    if isinstance(default, str) and not isinstance(value, str):
        raise BadSource(f"{what} is {value!r}; it must be text")
    if isinstance(value, str) and isinstance(default, Sequence) and not isinstance(default, str):
        parts = [part.strip() for part in value.split(",") if part.strip()]
        return [_as_type_of(default[0], part, what) for part in parts] if default else parts
    return value  # type: ignore[no-any-return]  # text, or a list that a script passed
