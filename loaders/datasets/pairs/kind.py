"""Images and their masks, the commonest data of all: two patterns, or a public layout by name.

`loaders.datasets.pairs.patterns` describes patterns, `loaders.datasets.pairs.coding` what the
values of masks may mean, and `loaders.datasets.pairs.layouts` the known public sets. Files may be
pictures (PNG, JPEG, TIFF, BMP and whatever else `loaders.formats.pictures` reads) or volumes
(NIfTI, NRRD, MHA); volumes of one slice make a 2-D set.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from loaders.cases import JSON, BadCase, BadSource, Kind, Meta, Survey, settings
from loaders.datasets.dicom_series import SERIES
from loaders.datasets.modality import modality_of
from loaders.datasets.pairs.coding import Coding, coding_of
from loaders.datasets.pairs.layouts import LAYOUTS, Layout, with_layout
from loaders.datasets.pairs.matching import Pair, match
from loaders.datasets.pairs.patterns import Files
from loaders.datasets.pairs.people import people_of
from loaders.datasets.pairs.read import Row, item_of, read
from loaders.datasets.resample import SPACING, chosen_spacing
from loaders.datasets.tabular.images import APPEARANCE, check_appearance
from loaders.formats.levels import Picture, common_scale
from loaders.formats.nifti import AIR, NiftiError, chosen_reading
from loaders.formats.nifti import OPTIONS as READING
from loaders.formats.pictures import is_grey, read_picture
from loaders.formats.scans.scan import modality_in
from loaders.formats.volumes.open import open_volume, volume_stem
from loaders.formats.volumes.volume import Volume

# Files examined to determine the properties of a set (assumption).
_PROBES = 16
# Pictures in one unit of work: enough to be worth sending to a process (assumption).
_TOGETHER = 64

OPTIONS: Mapping[str, tuple[JSON, str]] = {
    "name": ("", "the set's name in studies and reports; empty: that of its layout, or pairs"),
    "layout": ("", f"a public set in its original folders: {', '.join(LAYOUTS)}"),
    "images": ("", "pattern of the images: * any text, **/ any folders, {id} a named part"),
    "masks": (
        "",
        "pattern of an image's masks, which may name {stem}, {folder}, {id}, {structure}",
    ),
    "series": SERIES,
    "labels": ("", "names of classes 0, 1, ..., separated by commas, or VALUE=NAME,..."),
    "palette": ("", "colours of the classes, the background first: #RRGGBB=NAME,..."),
    "threshold": (0, "levels from this one on are foreground, lower ones background; 0: none"),
    "nearest": (False, "read a colour that is not in the palette as the nearest one that is"),
    "several": (
        "refuse",
        "several masks of an image: refuse (the case), union, or, of readers, majority or staple",
    ),
    "missing": ("reject", "an image without a mask: reject (the image), or empty (all background)"),
    "structures": ("", "with one mask per structure: those to use, with commas; empty: all"),
    "overlap": ("refuse", "if two structures overlap: refuse (the case), last, or regions"),
    "regions": ("", "regions to score, NAME=CLASS+CLASS,...; empty: each class by itself"),
    "csv": ("", "path under the source of a table of patients or parts; empty: none"),
    "image": ("", "the table's column of image names; empty: the first"),
    "group": ("", "the table's column of patients, who stay on one side of every split"),
    "split": ("", "the table's column of the official part: train, val or test"),
    "group_pattern": ("", "or a regular expression on paths whose first group is the patient"),
    "modality": (
        "auto",
        "ct, mri (each case by itself), other; auto: DICOM's, mri or an error",
    ),
    **APPEARANCE,
    **SPACING,
    **READING,
}


def survey(source: Path, options: Mapping[str, Any]) -> Survey:
    """Find the pairs of a folder and what their masks mean; raises BadSource."""
    given, layout = with_layout(source, options)
    chosen = settings("pairs", OPTIONS, given)
    check_appearance("pairs", chosen)
    found = match(source, Files(source), chosen)
    volumes = _are_volumes(found.pairs)
    groups, splits, grouped, unused = people_of(source, found.pairs, chosen)
    coding = coding_of(found.pairs, found.structures, chosen, flat=not volumes)
    make = _meta_of_volumes if volumes else _meta_of_pictures
    if any(pair.slices for pair in found.pairs):
        make = _meta_of_series
    rows = [
        (
            Row(
                key=pair.key,
                group=group,
                split=split,
                images=len(pair.slices) or 1,
                masks=tuple((name, len(paths)) for name, paths in pair.masks.items()),
                series=bool(pair.slices),
            ),
            (
                *(pair.slices or (pair.image,)),
                *(path for paths in pair.masks.values() for path in paths),
            ),
        )
        for pair, group, split in zip(found.pairs, groups, splits, strict=True)
    ]
    step = 1 if volumes else _TOGETHER
    return Survey(
        meta=make(chosen, layout, coding, [pair.image for pair in found.pairs], grouped),
        items=tuple(item_of(rows[at : at + step]) for at in range(0, len(rows), step)),
        rejected=(*found.rejected, *unused),
    )


def _are_volumes(pairs: Sequence[Pair]) -> bool:
    """Tell whether the set holds volumes; raises BadSource if it holds pictures too."""
    if any(pair.slices for pair in pairs):
        return True
    files = [
        (pair.image, path) for pair in pairs for paths in pair.masks.values() for path in paths
    ]
    kinds = Counter(
        tuple("a picture" if volume_stem(path.name) is None else "a volume" for path in both)
        for both in files or [(pair.image, pair.image) for pair in pairs]
    )
    (image, mask), _ = kinds.most_common(1)[0]
    if len(kinds) > 1 or image != mask:
        shown = ", ".join(
            f"{count} times {image} with {mask}" for (image, mask), count in kinds.items()
        )
        raise BadSource(
            f"images and masks are {shown}: give patterns for one kind only, pictures (PNG, ...) "
            "or volumes (.nii.gz, .nii, .nrrd, .mha)"
        )
    return image == "a volume"


def _spread(paths: Sequence[Path]) -> list[Path]:
    return [paths[at] for at in np.unique(np.linspace(0, len(paths) - 1, _PROBES).astype(int))]


def _meta(
    chosen: Mapping[str, Any],
    layout: Layout | None,
    coding: Coding,
    grouped: str,
    *,
    dims: Literal[2, 3],
    channels: tuple[str, ...],
    normalize: Literal["case", "train"],
    fill: float,
    options: Mapping[str, JSON],
) -> Meta:
    named = {"layout": chosen["layout"]} if layout else {}
    try:
        return Meta(
            kind="pairs",
            name=chosen["name"] or chosen["layout"] or "pairs",
            task="segmentation",
            dims=dims,
            channels=channels,
            classes=coding.classes,
            regions=dict(coding.regions),
            positive=None,
            normalize=normalize,
            fill=fill,
            unit="image" if dims == 2 else "volume",
            group_source=grouped,
            source=layout.source if layout else "the user's own",
            licence=layout.licence if layout else "the user's own",
            options={**coding.told(), **named, **options},
        )
    except ValueError as error:
        raise BadSource(f"pairs: {error}") from None


def _meta_of_pictures(
    chosen: Mapping[str, Any],
    layout: Layout | None,
    coding: Coding,
    images: Sequence[Path],
    grouped: str,
) -> Meta:
    if any(chosen["spacing"]):
        raise BadSource("option spacing is for volumes; for pictures set size, the longer side")
    found: list[Picture] = []
    for path in _spread(images):
        try:
            found.append(read_picture(path, ""))
        except BadCase:
            continue  # reported when it is read
    rgb = chosen["channels"] == "rgb" or (
        chosen["channels"] == "auto" and not all(is_grey(picture.array) for picture in found)
    )
    scale = common_scale(found)
    return _meta(
        chosen,
        layout,
        coding,
        grouped,
        dims=2,
        channels=("red", "green", "blue") if rgb else ("intensity",),
        normalize="train",
        fill=0.0,
        options={
            "volumes": False,
            "channels": chosen["channels"],
            "size": chosen["size"],
            "bits": scale.bits,
            "depths": scale.told,
        },
    )


def _chosen_of_volumes(chosen: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return how volumes are read, and their new spacing; raises BadSource."""
    reading = chosen_reading("pairs", chosen)
    spacing = chosen_spacing("pairs", chosen)
    if chosen["size"]:
        raise BadSource("option size is for pictures; for volumes set spacing, mm along z, y, x")
    return reading, spacing


def _meta_of_volumes(
    chosen: Mapping[str, Any],
    layout: Layout | None,
    coding: Coding,
    images: Sequence[Path],
    grouped: str,
) -> Meta:
    reading, spacing = _chosen_of_volumes(chosen)
    volumes: list[Volume] = []
    for path in _spread(images):
        try:
            volumes.append(open_volume(path))
        except NiftiError:
            continue  # reported when it is read
    if not volumes:
        raise BadSource("none of the images examined can be read as a volume")
    dims: Literal[2, 3] = 2 if all(1 in volume.shape[:3] for volume in volumes) else 3
    if dims == 2 and spacing:
        raise BadSource("option spacing is for volumes of several slices; these have one")
    count = volumes[0].shape[3] if len(volumes[0].shape) > 3 else 1
    modality = modality_of(chosen["modality"], volumes)
    ct = modality == "ct"
    return _meta(
        chosen,
        layout,
        coding,
        grouped,
        dims=dims,
        channels=tuple(f"channel_{n}" for n in range(count)) if count > 1 else ("intensity",),
        normalize="case" if modality == "mri" else "train",
        fill=AIR if ct else 0.0,
        options={
            "volumes": True,
            "modality": modality,
            "lowest": AIR if ct else None,
            **spacing,
            **reading,
        },
    )


def _meta_of_series(
    chosen: Mapping[str, Any],
    layout: Layout | None,
    coding: Coding,
    images: Sequence[Path],
    grouped: str,
) -> Meta:
    reading, spacing = _chosen_of_volumes(chosen)
    modality = modality_of(chosen["modality"], [], {modality_in(path) for path in images})
    ct = modality == "ct"
    several = {"several": chosen["several"]} if chosen["several"] != "refuse" else {}
    return _meta(
        chosen,
        layout,
        coding,
        grouped,
        dims=3,
        channels=("intensity",),
        normalize="case" if modality == "mri" else "train",
        fill=AIR if ct else 0.0,
        options={
            "volumes": True,
            "modality": modality,
            "lowest": AIR if ct else None,
            **several,
            **spacing,
            **reading,
        },
    )


PAIRS = Kind(
    name="pairs",
    summary="images and masks by two patterns: PNG, JPEG, BMP, TIFF, NIfTI, NRRD, MHA; 2-D or 3-D",
    source="the user's own, or a public set in its own layout (layout=NAME)",
    survey=survey,
    read=read,
    options=OPTIONS,
)
