"""Which masks belong to which image; files left over are reported, never dropped silently."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loaders.cases import BadCase, BadSource, most_often
from loaders.datasets.pairs.consensus import CONSENSUS
from loaders.datasets.pairs.dicom import (
    BY_REFERENCE,
    Found,
    by_reference,
    in_folders,
    is_series_mask,
)
from loaders.datasets.pairs.patterns import (
    OF_IMAGE,
    STRUCTURE,
    Files,
    check,
    known_of,
    parts_of,
)
from loaders.formats.inside import Inside
from loaders.formats.nifti import without_copies

# The most names in a message.
_SHOWN = 5


@dataclass(frozen=True, kw_only=True)
class Pair:
    """An image and its masks by structure ("" if a mask holds all); `key` is its path.

    `parts` are the named parts of the pattern of the images. For a DICOM series, `slices` are its
    files and `image` is the first of them; its mask files may hold several structures each.
    """

    key: str
    image: Path
    masks: Mapping[str, tuple[Path, ...]]
    parts: Mapping[str, str]
    slices: tuple[Path, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Matched:
    """The pairs of a source; `structures` are in order, empty if a mask holds all."""

    pairs: tuple[Pair, ...]
    rejected: tuple[BadCase, ...]
    structures: tuple[str, ...]


def match(source: Path, files: Files, chosen: Mapping[str, Any]) -> Matched:
    """Find the images and their masks by the chosen patterns; raises BadSource."""
    images, masks = chosen["images"], chosen["masks"]
    if not images or not masks:
        raise BadSource(
            "pairs needs two patterns, such as images=images/*.png "
            f"'masks=masks/{{stem}}.png', or layout=NAME; the source holds {files.kinds()}"
        )
    series = Found()
    if images == BY_REFERENCE:
        series = by_reference(source, chosen)
    else:
        check("images", images)
        check("masks", masks, [*parts_of(images), *OF_IMAGE, STRUCTURE])
    fitting = [] if images == BY_REFERENCE else files.fitting(images, {})
    found = {name: (parts, files.fitting(masks, known_of(name, parts))) for name, parts in fitting}
    _check_whole(source, found)
    if not found:
        if images != BY_REFERENCE:
            series = in_folders(source, files, chosen)
        found = series.images
        if series.rejected and not found:
            raise BadSource(
                f"no folder under {source} that matches images={images} holds a series with masks"
                f"{most_often(series.rejected)}"
            )
    taken = {mask for _, mine in found.values() for mask, _ in mine}
    # A pattern of images as wide as *.png also matches the masks beside them.
    apart = {name: one for name, one in found.items() if name not in taken}
    if found and not apart:
        raise BadSource(
            f"option masks is {masks!r}, which matches all {len(found)} files that "
            f"images={images} matches: set masks=PATTERN to match the masks only; "
            f"the source holds {files.kinds()}"
        )
    found = apart
    if not found:
        raise BadSource(
            f"no file under {source} matches images={images!r}; it holds {files.kinds()}: set "
            "images=PATTERN"
        )
    named = (parts for _, mine in found.values() for _, parts in mine)
    there = {parts[STRUCTURE] for parts in named if STRUCTURE in parts}
    by_structure = STRUCTURE in parts_of(masks) or bool(there)
    structures = _structures(chosen, there, by_structure=by_structure)
    inside = Inside(source)
    pairs, rejected = [], list(series.rejected)
    for name, (parts, mine) in found.items():
        try:
            slices = series.slices.get(name, ())
            for path in (*(() if slices else (name,)), *(mask for mask, _ in mine)):
                _hold(inside, source, path)
            groups = _grouped(source, mine, structures, chosen, masks, name)
        except BadCase as bad:
            rejected.append(bad)
            continue
        image = slices[0] if slices else source / name
        pairs.append(Pair(key=name, image=image, masks=groups, parts=parts, slices=slices))
    if not pairs:
        raise BadSource(
            f"no image under {source} can be used: {rejected[0].where}: {rejected[0].reason}; "
            + (_common(found, structures) or f"the source holds {files.kinds()}")
        )
    alone = [
        BadCase("the mask has no image", where=name, key=name)
        for name, _ in ([] if series.slices else files.fitting(masks, {}))
        if name not in taken and name not in found
    ]
    return Matched(pairs=tuple(pairs), rejected=(*rejected, *alone), structures=tuple(structures))


def _check_whole(
    source: Path, found: Mapping[str, tuple[Mapping[str, str], Sequence[tuple[str, Any]]]]
) -> None:
    """Raise BadSource if images are single files but a mask is that of a whole series."""
    for image, (_, mine) in found.items():
        for mask, _ in mine[:1]:
            if is_series_mask(source / mask):
                raise BadSource(
                    f"{mask} is the mask of a whole DICOM series, but {image} is one file: let "
                    "images match the folders of the series, such as images={patient}/CT, or "
                    "set layout=dicom"
                )
            return


def _common(
    found: Mapping[str, tuple[Mapping[str, str], Sequence[tuple[str, Mapping[str, str]]]]],
    structures: Sequence[str],
) -> str:
    """Return how many images have each structure, as text; empty if a mask holds all."""
    if not structures:
        return ""
    held = Counter(
        name
        for _, mine in found.values()
        for name in {parts[STRUCTURE] for _, parts in mine if STRUCTURE in parts}
    )
    shown = ", ".join(f"{name} ({count})" for name, count in held.most_common(40))
    return f"set structures=NAME,NAME to some that all images have: {shown[:1000]}"


def _structures(chosen: Mapping[str, Any], there: set[str], *, by_structure: bool) -> Sequence[str]:
    asked = [name.strip() for name in chosen["structures"].split(",") if name.strip()]
    if not by_structure:
        if asked:
            raise BadSource(
                "option structures needs one mask per structure: write {structure} in the pattern "
                "of the masks, such as masks/{stem}/{structure}.nii.gz"
            )
        return []
    if unknown := [name for name in asked if name not in there]:
        raise BadSource(
            f"option structures names {unknown[0]!r}, but no mask has this name; there are: "
            f"{', '.join(sorted(there))[:1000] or 'none'}"
        )
    return asked or sorted(there)


def _hold(inside: Inside, source: Path, name: str) -> None:
    try:
        held = inside.holds(source / name)
    except (OSError, RuntimeError):
        raise BadCase("the file is a link that leads to nothing", where=name, key=name) from None
    if not held:
        raise BadCase("the file is a link that leads out of the source", where=name, key=name)


def _grouped(
    source: Path,
    mine: Sequence[tuple[str, Mapping[str, str]]],
    structures: Sequence[str],
    chosen: Mapping[str, Any],
    masks: str,
    image: str,
) -> dict[str, tuple[Path, ...]]:
    """Return the masks of one image by structure; raises BadCase."""
    groups: dict[str, list[Path]] = {name: [] for name in structures or [""]}
    lacking = chosen["missing"]
    for mask, parts in mine:
        # Names are compared with their case: structures may differ in it alone.
        name = parts.get(STRUCTURE, "") if structures else ""
        if name in groups:
            groups[name].append(source / mask)
    for name, paths in groups.items():
        what = f"mask of {name}" if name else "mask"
        paths[:] = without_copies(paths)
        if not paths and lacking != "empty":
            raise BadCase(
                f"the image has no {what}; missing=empty would count it as empty",
                where=f"{image} (masks are {masks})",
                key=image,
            )
        if len(paths) > 1 and chosen["several"] == "refuse":
            raise BadCase(
                f"the image has {len(paths)} files for its {what}; several=union would unite "
                "them, majority or staple would take each as a reader's",
                where=f"{image} ({', '.join(path.name for path in paths[:_SHOWN])})",
                key=image,
            )
    counts = {name: len(paths) for name, paths in groups.items()}
    fewest, most = (of(groups, key=counts.__getitem__) for of in (min, max))
    if chosen["several"] in CONSENSUS and counts[fewest] < counts[most] and lacking != "empty":
        raise BadCase(
            f"the image has {counts[most]} readers' masks of {most} but {counts[fewest]} of "
            f"{fewest}; missing=empty would count missing masks as empty",
            where=f"{image} (masks are {masks})",
            key=image,
        )
    return {name: tuple(paths) for name, paths in groups.items()}
