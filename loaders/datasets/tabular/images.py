"""A folder of pictures and a table of their classes: chest X-ray, skin, fundus.

`loaders.datasets.tabular.labels` reads the table and `loaders.formats.pictures` the pictures. A few
pictures spread over the set determine whether it is grey or in colour, and most of them its bit
depth. Levels of another depth are converted (`loaders.formats.levels`); a picture that does not fit
is a rejected case, so that no image is silently on another scale.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from loaders.cases import (
    JSON,
    Array,
    BadCase,
    BadSource,
    Case,
    Item,
    Kind,
    Label,
    Meta,
    Survey,
    settings,
)
from loaders.datasets.tabular.class_folders import has_class_folders, read_class_folders
from loaders.datasets.tabular.labels import OPTIONS, Answers, Row, read_labels
from loaders.formats.levels import Picture, Scale, common_scale, on_scale
from loaders.formats.pictures import SUFFIXES, in_channels, is_grey, read_picture, shrink

CHANNELS = ("auto", "grey", "rgb")
# Pictures examined to determine the properties of a set (assumption).
_PROBES = 16
# Pictures in one unit of work: enough to be worth sending to a process (assumption).
_TOGETHER = 64


def survey(source: Path, options: Mapping[str, Any]) -> Survey:
    """List a folder by its table, and examine a few pictures; raises BadSource."""
    chosen = settings("images", IMAGES.options, options)
    check_appearance("images", chosen)
    if has_class_folders(source, chosen, SUFFIXES):
        answers = read_class_folders(source, chosen, SUFFIXES)
    else:
        answers = read_labels(source, chosen, suffixes=SUFFIXES)
    found = _probe(answers.rows)
    rows = answers.rows
    return Survey(
        meta=make_meta("images", chosen, answers, found, unit="image", dims=2),
        items=tuple(
            Item(
                key=rows[at].key,
                paths=tuple(row.path for row in rows[at : at + _TOGETHER]),
                extra={
                    "rows": [_facts(row) for row in rows[at : at + _TOGETHER]],
                    **kept_columns(rows[at : at + _TOGETHER]),
                },
                cases=len(rows[at : at + _TOGETHER]),
            )
            for at in range(0, len(rows), _TOGETHER)
        ),
        rejected=answers.rejected,
    )


def kept_columns(rows: Sequence[Row]) -> dict[str, Any]:
    """Return what an item keeps beside its answers, by the fields of a Case.

    It is {} if there is nothing, so that fingerprints of items and stores without it do not change.
    """
    kept: dict[str, list[Any]] = {
        "columns": [row.columns for row in rows],
        "clinical": [row.clinical for row in rows],
        "ratings": [row.ratings for row in rows],
    }
    return {name: values for name, values in kept.items() if any(values)}


def kept_of(item: Item, count: int) -> list[dict[str, Any]]:
    """Return these values for each of an item's cases, by the fields of a Case."""
    names = [name for name in ("columns", "clinical", "ratings") if name in item.extra]
    return [{name: item.extra[name][at] for name in names} for at in range(count)]


def _facts(row: Row) -> tuple[str, str, Label, str | None]:
    return row.key, row.group, row.label, row.split


def _probe(rows: Sequence[Row]) -> list[Picture]:
    """Return the readable ones of a few pictures spread over the set."""
    found = []
    for at in np.unique(np.linspace(0, len(rows) - 1, _PROBES).astype(int)) if rows else ():
        try:
            found.append(read_picture(rows[at].path, rows[at].key))
        except BadCase:
            continue  # reported when it is read
    return found


def check_appearance(kind: str, chosen: Mapping[str, Any]) -> None:
    """Raise BadSource if `channels` or `size` is invalid."""
    if chosen["channels"] not in CHANNELS:
        known = ", ".join(CHANNELS)
        raise BadSource(
            f"{kind} option channels is {chosen['channels']!r}; it must be one of: {known}"
        )
    if chosen["size"] < 0:
        raise BadSource(
            f"{kind} option size is {chosen['size']}; it must be a number of pixels, 0 or more"
        )


def make_meta(
    kind: str,
    chosen: Mapping[str, Any],
    answers: Answers,
    found: Sequence[Picture],
    *,
    unit: str,
    dims: Literal[2, 3],
    axes: str = "",
    alone: str = "case",
    **more: Any,
) -> Meta:
    """Return the meta of a set with a table; `found` are the pictures examined.

    `alone` names the group if the table has no column for it; `more` are further settings that
    shaped the arrays. Raises BadSource if the pictures are on two scales.
    """
    rgb = chosen["channels"] == "rgb" or (
        chosen["channels"] == "auto" and not all(is_grey(picture.array) for picture in found)
    )
    scale = common_scale(found)
    finding = chosen["finding"]
    return Meta(
        kind=kind,
        name=chosen["name"] or "-".join(filter(None, (kind, finding, chosen["value"]))),
        task=answers.task,
        dims=dims,
        channels=("red", "green", "blue") if rgb else ("intensity",),
        classes=answers.classes,
        regions={},
        positive=answers.positive,
        normalize="train",
        fill=0.0,
        unit=unit,
        group_source="patient" if answers.grouped else alone,
        source="the user's own",
        licence="the user's own",
        options={
            "channels": chosen["channels"],
            "size": chosen["size"],
            "bits": scale.bits,
            "depths": scale.told,
            **asked_of(chosen),
            **words_in(answers),
            **more,
        },
        axes=axes,
    )


def asked_of(chosen: Mapping[str, Any]) -> dict[str, JSON]:
    """Return the table's settings that differ from their defaults, for a meta's options."""
    finding = chosen["finding"]
    asked: dict[str, JSON] = (
        {"finding": finding, "uncertain": chosen["uncertain"]} if finding else {}
    )
    for name in ("grades", "value", "blank", "readers", "keep", "clinical"):
        if chosen[name] != OPTIONS[name][0]:
            asked[name] = chosen[name]
    return asked


def words_in(answers: Answers) -> dict[str, JSON]:
    """Return the words of clinical categories, for a meta's options; {} if there are none."""
    found = {name: list(words) for name, words in answers.categories.items()}
    return {"categories": found} if found else {}


def fitted(picture: Picture, meta: Meta, where: str) -> Array:
    """Return a picture (C, Y, X) in the scale, channels and size of a set; raises BadCase."""
    known: dict[str, Any] = meta.options
    image = on_scale(picture, Scale(bits=known["bits"], told=tuple(known["depths"])), where)
    mix = known["channels"] == "grey"
    size = known["size"]
    return shrink(in_channels(image, len(meta.channels), mix=mix, where=where), size)


def read(item: Item, meta: Meta) -> Iterator[Case | BadCase]:
    """Yield the images of an item, one in memory at a time."""
    rows = item.extra["rows"]
    more = kept_of(item, len(rows))
    for path, (key, group, label, split), kept in zip(item.paths, rows, more, strict=True):
        try:
            image = fitted(read_picture(path, key), meta, key)
        except BadCase as bad:
            bad.key = key
            yield bad
            continue
        yield Case(
            key=key,
            group=group,
            image=image,
            label=label,
            mask=None,
            spacing=(np.nan, np.nan),
            split=split,
            files=(path,),
            **kept,
        )


APPEARANCE: Mapping[str, tuple[JSON, str]] = {
    "channels": ("auto", "grey, rgb, or auto: rgb if a picture of the set shows colour"),
    "size": (0, "limit of the longer side in pixels, by antialiased bicubic shrinking; 0: none"),
}
IMAGES = Kind(
    name="images",
    summary="a folder of PNG, JPEG, TIFF, DICOM or other images, with their classes in a CSV or "
    "in one folder per class",
    source="the user's own: chest X-ray, skin, fundus, histology",
    survey=survey,
    read=read,
    options={**OPTIONS, **APPEARANCE},
)
