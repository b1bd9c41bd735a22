"""Types shared by every reader and the store: a source's survey, its items, its cases."""

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from loaders.targets import TARGETS, Numbers

# A case's class, or its numbers, None where one is missing.
Label: TypeAlias = int | tuple[float | None, ...]
JSON: TypeAlias = "str | int | float | bool | Sequence[JSON] | Mapping[str, JSON] | None"
Array: TypeAlias = NDArray[Any]

# What an image may be stored as, smallest first.
IMAGE_TYPES: tuple[np.dtype[Any], ...] = tuple(
    np.dtype(name) for name in ("uint8", "int16", "uint16", "float32")
)
# The order of the spatial axes, by their number; the first is the default. A cine loop is a 3-D
# image whose first axis is time.
AXES: Mapping[int, tuple[str, ...]] = {2: ("yx",), 3: ("zyx", "tyx")}
# A mask is uint8, so a data set has at most this many classes.
MAX_CLASSES = 256


class BadCase(ValueError):  # noqa: N818 - it names the case; "error" would suggest that the run broke
    """One case that cannot be used: the run goes on, and rejected.parquet keeps the reason.

    `reason` is one sentence that names no path and no identity, for it is stored. `where` is the
    path relative to the source, for the terminal alone. `key` is the real identifier, which is
    stored as a keyed hash; None: the item's own.
    """

    def __init__(self, reason: str, *, where: str, key: str | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.where = where
        self.key = key

    def __reduce__(self) -> tuple[Callable[..., "BadCase"], tuple[str, str, str | None]]:
        # Exceptions are pickled by their positional arguments alone; this one has named ones.
        return _bad_case, (self.reason, self.where, self.key)


def _bad_case(reason: str, where: str, key: str | None) -> BadCase:
    return BadCase(reason, where=where, key=key)


def most_often(rejected: Collection[BadCase]) -> str:
    """Return the end of a sentence that says why most were rejected; empty where none was.

    The first is often an odd one out: what happened to most is the cause.
    """
    if not rejected:
        return ""
    ((reason, count),) = Counter(bad.reason for bad in rejected).most_common(1)
    where = next(bad.where for bad in rejected if bad.reason == reason)
    shown = "the first," if count in (1, len(rejected)) else f"{count} of them as"
    return f"; {len(rejected)} rejected, {shown} {where}: {reason}"


class BadSource(ValueError):  # noqa: N818 - as BadCase
    """A whole source that cannot be used: a missing folder, an unknown option, no usable case."""


@dataclass(frozen=True, kw_only=True)
class Meta:
    """What holds for every case of a store.

    `classes[i]` is the name of label i; in segmentation 0 is the background; where a case has
    several findings (multi-label) they are its findings, and of a number (regression) its name.
    `regions` names the foreground regions that are scored, each a union of labels; empty in
    classification. `positive` is the class that counts as positive (the disease) in binary
    classification, else None.
    `normalize` is the scope of what intensities are normalised by: "case" (each case's own: MRI, in
    a z-score over its non-zero voxels) or "train" (that of the training part: CT, 2-D). `fill` is
    the raw value outside the image. `unit` is what a case is: "image", "lesion", "volume".
    `group_source` says what the group is: "patient", or "case" where the source has no such column.
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
        """Fill in the default axes and refuse what no store can hold; raises ValueError."""
        if self.task not in TARGETS:
            raise ValueError(f"task is {self.task!r}; it is {' or '.join(TARGETS)}")
        if self.dims not in (2, 3):
            raise ValueError(f"dims is {self.dims!r}; it is 2 or 3")
        # A default follows the dims, so that replace(meta, dims=2) does what it says.
        if not self.axes or self.axes in (known[0] for known in AXES.values()):
            object.__setattr__(self, "axes", AXES[self.dims][0])
        if self.axes not in AXES[self.dims]:
            raise ValueError(f"axes is {self.axes!r}; it is {' or '.join(AXES[self.dims])}")
        if self.normalize not in ("case", "train"):
            raise ValueError(f"normalize is {self.normalize!r}; it is case or train")
        if not self.channels:
            raise ValueError("channels is empty")
        least, most = self._names
        if not least <= len(self.classes) <= most:
            raise ValueError(f"there are {len(self.classes)} classes; {least} to {most} can be")
        if len(set(self.classes)) < len(self.classes):
            raise ValueError(f"two classes share a name: {', '.join(self.classes)}")
        if bool(self.regions) != self.masked:
            raise ValueError(f"{self.task} has {'regions' if self.masked else 'no regions'}")
        for name, labels in self.regions.items():
            if not labels or not all(0 < label < len(self.classes) for label in labels):
                raise ValueError(f"region {name} unites labels {labels} of {len(self.classes)}")
        if self.positive is not None and self.numbers:
            raise ValueError(f"positive is {self.positive}; {self.task} has no class that is so")
        if self.positive is not None and not 0 <= self.positive < len(self.classes) == 2:
            raise ValueError(f"positive is {self.positive} among {len(self.classes)} classes")

    @property
    def masked(self) -> bool:
        """Whether the answer of a case is a mask."""
        return TARGETS[self.task].masks

    @property
    def ignored(self) -> int | None:
        """The label of voxels that count nowhere, one above that of the last class; None: all do.

        A reader that finds such voxels says so by the option `ignore`, their number in the source.
        """
        return len(self.classes) if "ignore" in self.options else None

    @property
    def numbers(self) -> Numbers | None:
        """What numbers the answer of a case is; None: a class or a mask."""
        return TARGETS[self.task].numbers

    @property
    def _names(self) -> tuple[int, int]:
        """The least and the greatest number of classes."""
        if self.numbers is None:
            return 2, MAX_CLASSES
        return self.numbers.least, self.numbers.most or MAX_CLASSES


@dataclass(frozen=True, kw_only=True)
class Item:
    """One unit of reading work: cheap, picklable, and the source of one case or of several.

    `key` is the real identifier in the source; it is hashed and never stored. `cases` is how many
    it is the source of, as far as a survey knows; an item of one scan may have more or none.
    """

    key: str
    paths: tuple[Path, ...]
    extra: dict[str, Any]
    cases: int = 1


@dataclass(frozen=True, kw_only=True)
class Case:
    """One image with its answer.

    `key` and `group` are real identifiers, which the store hashes; `group` is `key` where the
    source has no group column. `image` (C, *spatial) has one of IMAGE_TYPES; `label` is the class
    (classification) or one number for each name in the meta's `classes`, None where it is missing
    (multi-label: 1 or 0; regression: the number), `mask` (*spatial) the uint8 label map
    (segmentation). Spatial axes run as the meta's `axes` say; `spacing` is in mm along z, y and x
    and in seconds along t, nan where unknown. `split` is the source's official part, None where it
    has none. `ratings` is what its readers said of it, by the name of a scale: one number a reader,
    the readers in the same order on every scale; None where nobody rated. They are stored beside
    the answer and decide no trial. `columns` numbers the case's values in columns of the source by
    which a study may split (the site, a fold): whole numbers from 0 on and never the values, which
    may say who somebody is. `clinical` are its clinical data by column (`loaders.datasets.clinical`
    makes them): a number, or that of a word in the meta's option `categories`; nan where missing.
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
# (options, told of (bytes there, bytes in all)) -> the source, fetched.
Fetch: TypeAlias = Callable[[Mapping[str, Any], Callable[[int, int], None]], Path]


@dataclass(frozen=True, kw_only=True)
class Kind:
    """One row of `loaders.KINDS`: how a kind of source is read.

    `survey(source, options)` lists it and raises BadSource. `read(item, meta)` gives an item's
    cases: it yields a BadCase for one case that cannot be used and goes on, or raises BadCase to
    reject the whole item. `options` maps each setting to its default and its meaning. `fetch` gets
    the official files where they may be had freely; None where they may not. It raises BadSource.
    """

    name: str
    summary: str
    source: str
    survey: Callable[[Path, Mapping[str, Any]], Survey]
    read: Read
    options: Mapping[str, tuple[JSON, str]]
    fetch: Fetch | None = None


def settings(
    kind: str, options: Mapping[str, tuple[JSON, str]], given: Mapping[str, Any]
) -> dict[str, Any]:
    """Return every option of a kind: the given value in the type of its default, or the default.

    `given` may hold text, as a command line has it. Raises BadSource on an unknown name and on a
    value that is not of the default's type.
    """
    if unknown := sorted(set(given) - set(options)):
        known = ", ".join(options) or "none"
        raise BadSource(f"{kind} has no option {unknown[0]!r}; its options are: {known}")
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
            raise BadSource(f"{what} is {value!r}; it is true or false")
        return known[str(value).lower()]
    if isinstance(default, int | float):
        try:
            return type(default)(value)
        except (TypeError, ValueError):
            raise BadSource(f"{what} is {value!r}, which is no {wanted}") from None
    if isinstance(default, str) and not isinstance(value, str):
        raise BadSource(f"{what} is {value!r}, which is no text")
    if isinstance(value, str) and isinstance(default, Sequence) and not isinstance(default, str):
        parts = [part.strip() for part in value.split(",") if part.strip()]
        return [_as_type_of(default[0], part, what) for part in parts] if default else parts
    return value  # type: ignore[no-any-return]  # text, or a list as a script hands it over
