"""Reading of images and masks, pictures or volumes, into cases as a meta describes."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from loaders.cases import Array, BadCase, Case, Item, Meta
from loaders.datasets.pairs.coding import Coding, answer, series_loader, volume_of
from loaders.datasets.pairs.seen_masks import read_kept
from loaders.datasets.resample import resampled, resized_labels
from loaders.formats.levels import Scale, on_scale
from loaders.formats.nifti import AFFINE_TOLERANCE, NiftiError, agree, filled, to_ras
from loaders.formats.pictures import MaskPicture, in_channels, read_picture, shrink
from loaders.formats.scans.scan import read_scan
from loaders.formats.volumes.upright import upright


@dataclass(frozen=True, kw_only=True)
class Row:
    """One case of an item: how many of its paths are images, and how many masks of each structure.

    `series`: its images are the slices of one DICOM series; otherwise they are its channels.
    """

    key: str
    group: str
    split: str | None
    images: int
    masks: tuple[tuple[str, int], ...]
    # Left out of repr, so that fingerprints of other sets' items and stores do not change.
    series: bool = field(default=False, repr=False)


def item_of(rows: Sequence[tuple[Row, Sequence[Path]]]) -> Item:
    """Return one unit of work of several cases; paths are each case's images, then its masks."""
    return Item(
        key=rows[0][0].key,
        paths=tuple(path for _, paths in rows for path in paths),
        extra={"rows": [row for row, _ in rows]},
        cases=len(rows),
    )


def read(item: Item, meta: Meta) -> Iterator[Case | BadCase]:
    """Yield the cases of an item, one in memory at a time."""
    known: dict[str, Any] = meta.options
    make = _of_volumes if known["volumes"] else _of_pictures
    coding = Coding.of(meta)
    paths = iter(item.paths)
    for row in item.extra["rows"]:
        images = [next(paths) for _ in range(row.images)]
        masks = {name: tuple(next(paths) for _ in range(count)) for name, count in row.masks}
        try:
            image, mask, spacing = (_of_series if row.series else make)(
                images, masks, meta, coding, row.key
            )
            case = Case(
                key=row.key,
                group=row.group,
                image=image,
                label=None,
                mask=mask,
                spacing=spacing,
                split=row.split,
                files=(*images, *(path for mine in masks.values() for path in mine)),
            )
            yield resampled(case, known["spacing"]) if "spacing" in known else case
        except BadCase as bad:
            bad.key = row.key
            # In a series, `where` may also name the slice.
            if not bad.where.startswith(row.key):
                bad.where = row.key
            yield bad
        except NiftiError as error:
            yield BadCase(str(error), where=row.key, key=row.key)


_Made = tuple[Array, Array, tuple[float, ...]]
_Masks = Mapping[str, tuple[Path, ...]]


def _of_pictures(
    images: Sequence[Path], masks: _Masks, meta: Meta, coding: Coding, key: str
) -> _Made:
    known: dict[str, Any] = meta.options
    scale = Scale(bits=known["bits"], told=tuple(known["depths"]))
    channels = len(meta.channels) // len(images)
    parts = [
        in_channels(
            on_scale(read_picture(path, key), scale, key),
            channels,
            mix=known["channels"] == "grey",
            where=key,
        )
        for path in images
    ]
    if len({part.shape for part in parts}) > 1:
        raise BadCase("its channels are pictures of different sizes", where=key)
    image = parts[0] if len(parts) == 1 else np.concatenate(parts)
    mask = answer(masks, coding, lambda path, _: read_kept(path, key), image.shape[1:])
    small = shrink(image, known["size"])
    if small.shape != image.shape:
        mask = resized_labels(mask, small.shape[1:])
    return small, mask, (np.nan, np.nan)


def _of_volumes(
    images: Sequence[Path], masks: _Masks, meta: Meta, coding: Coding, _key: str
) -> _Made:
    known: dict[str, Any] = meta.options
    volumes = [volume_of("image", path) for path in images]
    first = volumes[0]
    shift = known.get("shift", AFFINE_TOLERANCE)
    fill = known.get("nan") == "fill"

    def load(path: Path, _name: str) -> MaskPicture:
        label = volume_of("label", path)
        agree(volumes, label, shift)
        try:
            voxels = label.load()
        except NiftiError as error:
            raise NiftiError(f"the label {error}") from None
        return MaskPicture(levels=filled(voxels, 0) if fill else voxels)

    if len(volumes) > 1:
        agree(volumes, first, shift)
    mask, _ = to_ras(answer(masks, coding, load, first.shape[:3]), first.affine)
    image, spacing = upright(volumes, lowest=known["lowest"], fill=fill)
    if meta.dims == 3:
        return image, mask.T, spacing
    single = [axis for axis, length in enumerate(image.shape[1:]) if length == 1]
    if not single:
        raise NiftiError("the image has several slices, but other images of the set have one")
    kept = tuple(mm for axis, mm in enumerate(spacing) if axis != single[0])
    return image.squeeze(axis=single[0] + 1), mask.T.squeeze(axis=single[0]), kept


def _of_series(
    slices: Sequence[Path], masks: _Masks, meta: Meta, coding: Coding, key: str
) -> _Made:
    known: dict[str, Any] = meta.options
    scan = read_scan(slices, key)
    nan = known.get("nan", "refuse")
    load = series_loader(
        scan,
        known.get("shift", AFFINE_TOLERANCE),
        coding,
        nan=nan,
        union=known.get("several") == "union",
    )
    mask, _ = to_ras(answer(masks, coding, load, scan.volume.shape), scan.volume.affine)
    image, spacing = upright([scan.volume], lowest=known["lowest"], fill=nan == "fill")
    return image, mask.T, spacing
