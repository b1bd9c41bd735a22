"""nnU-Net's folders of files other than NIfTI: pictures (.png, .bmp, .tif), .nrrd and .mha.

nnU-Net's documentation/dataset_format.md: `file_ending` of dataset.json is the only ending in a
set; each channel is a file, except in colour pictures, which hold all channels in one.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from loaders.cases import JSON, BadCase, BadSource, Item, Meta
from loaders.datasets.pairs.read import Row, item_of
from loaders.formats.levels import Picture, common_scale
from loaders.formats.nifti import ENDINGS as NIFTI
from loaders.formats.nifti import NiftiError
from loaders.formats.pictures import read_picture
from loaders.formats.volumes.open import open_volume

PICTURES = (".png", ".bmp", ".tif", ".tiff")
VOLUMES = (".nrrd", ".mha")
# Files examined to determine the properties of a set (assumption).
_PROBES = 16


def ending_of(about: Mapping[str, Any], source: Path) -> str:
    """Return the ending of a set's files, in lower case; raises BadSource."""
    ending = str(about.get("file_ending", NIFTI[0]))[:20].lower()
    known = (*NIFTI, *VOLUMES, *PICTURES)
    if ending not in known:
        raise BadSource(f"{source} holds {ending} files; endings read are: {', '.join(known)}")
    return ending


def other_meta(meta: Meta, files: Mapping[str, tuple[Path, ...]], ending: str) -> Meta:
    """Return the meta of a set of such files, based on that of NIfTI; raises BadSource.

    `files` are the images of each case, then its label.
    """
    cases = list(files.values())[:: max(1, len(files) // _PROBES)]
    numbers: dict[str, Any] = {
        "way": "numbers",
        "overlap": "refuse",
        "classes_of": tuple(range(len(meta.classes) + (meta.ignored is not None))),
    }
    if ending in VOLUMES:
        flat = []
        for image, *_ in cases:
            try:
                flat.append(1 in open_volume(image).shape[:3])
            except NiftiError:
                continue  # reported when it is read
        dims: Literal[2, 3] = 2 if flat and all(flat) else 3
        return replace(meta, dims=dims, options={**meta.options, **numbers, "volumes": True})
    if "spacing" in meta.options:
        raise BadSource("option spacing is for volumes, but these are pictures")
    found: list[Picture] = []
    for *images, _ in cases:
        try:
            found += [read_picture(path, "") for path in images]
        except BadCase:
            continue  # reported when it is read
    scale = common_scale(found)
    levels: dict[str, JSON] = {
        "volumes": False,
        "channels": "auto",
        "size": 0,
        "bits": scale.bits,
        "depths": scale.told,
    }
    kept: dict[str, JSON] = {
        name: meta.options[name] for name in ("label_values", "ignore") if name in meta.options
    }
    return replace(
        meta,
        dims=2,
        normalize="train",
        fill=0.0,
        unit="image",
        options={**kept, **numbers, **levels},
    )


def other_item(key: str, group: str, paths: Sequence[Path]) -> Item:
    """Return the item of a case; `paths` are its images, then its label."""
    row = Row(key=key, group=group, split=None, images=len(paths) - 1, masks=(("", 1),))
    return item_of([(row, paths)])
