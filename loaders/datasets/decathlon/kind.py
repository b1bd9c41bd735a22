"""Segmentation folders of the Medical Segmentation Decathlon and of nnU-Net, which adopted them.

Both hold `imagesTr`, `labelsTr` and `dataset.json`. The Decathlon (medicaldecathlon.com) keeps the
channels of a case in the last axis of one file, nnU-Net (its documentation/dataset_format.md) in
one file per channel, `CASE_0000.nii.gz`. Without `dataset.json`, the channels are numbered, and the
labels are those found in the files unless an option names them.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from loaders.cases import JSON, BadCase, BadSource, Case, Item, Kind, Meta, Survey, settings
from loaders.datasets.decathlon.dataset_json import (
    by_number,
    channels_of,
    dictionary,
    name_of,
    number_of,
    read_description,
    text_of,
)
from loaders.datasets.decathlon.other_endings import PICTURES, ending_of, other_item, other_meta
from loaders.datasets.pairs.read import read as read_pair
from loaders.datasets.patient_pattern import patient_in
from loaders.datasets.resample import SPACING, chosen_spacing, read
from loaders.formats.nifti import (
    AIR,
    NiftiError,
    chosen_reading,
    found_labels,
    read_header,
    read_voxels,
    stem,
    without_copies,
)
from loaders.formats.nifti import ENDINGS as NIFTI
from loaders.formats.nifti import OPTIONS as READING

MODALITIES = ("auto", "ct", "mri")
# Words for CT in a channel's name: with and without contrast, angiography, cone beam.
CT_WORDS = {"ct", "cta", "cect", "ncct", "cbct"}
# Only CT has values this low, in air and lung (assumption: no MRI or PET is stored with them).
CT_BELOW = -500
_OPTIONS: dict[str, tuple[JSON, str]] = {
    "group": ("", "regular expression whose first group is the patient in a case's name"),
    "modality": (
        "auto",
        "ct or mri; auto: by dataset.json's channels, else mri or an error",
    ),
    "labels": ("", "names of labels 0, 1, ..., with commas; empty: dataset.json's, or as found"),
    **SPACING,
    **READING,
}
# Task01 numbers the parts of a brain tumour in its own way; these are BraTS's nested regions.
_BRAIN_TUMOUR = ("edema", "non-enhancing tumor", "enhancing tumor")
_BRAIN_TUMOUR_REGIONS: dict[str, tuple[int, ...]] = {"WT": (1, 2, 3), "TC": (2, 3), "ET": (3,)}


_CHANNEL = re.compile(r"(.+)_(\d{4})")


@dataclass(frozen=True, kw_only=True)
class _Labels:
    """What the numbers in the label files mean: `values[i]` is the number of `classes[i]`.

    `ignore` is the number of ignored voxels; None: there are none.
    """

    values: tuple[int, ...]
    classes: tuple[str, ...]
    regions: dict[str, tuple[int, ...]]
    ignore: int | None = None


def survey_msd(source: Path, options: Mapping[str, Any]) -> Survey:
    """List a Decathlon folder, or one of CASE_image and CASE_label files; raises BadSource."""
    chosen = settings("msd", MSD.options, options)
    about = read_description(source)
    if "channel_names" in about:
        raise BadSource(f"{source} is an nnU-Net folder: prepare it as `nnunet`")
    images, labels = _msd_files(source)
    listed = _listed(about)
    pairs: dict[str, tuple[Path, Path]] = {}
    rejected = []
    for case in sorted({*images, *labels, *listed}):
        mine, truth = images.get(case, []), labels.get(case, [])
        reason = _count_fault("image", mine) or _count_fault("label", truth)
        if reason is None:
            pairs[case] = (mine[0], truth[0])
        else:
            rejected.append(BadCase(reason, where=case, key=case))
    if not pairs:
        if any((part := _CHANNEL.fullmatch(name)) and part[1] in labels for name in images):
            raise BadSource(
                f"{source} has images named CASE_0000, one file per channel, as in nnU-Net: "
                "prepare it as `nnunet`"
            )
        raise BadSource(f"{source} holds no image with its label{_first(rejected)}")
    if "labels" in about and not chosen["labels"]:
        named = _msd_labels(about, source)
    else:
        named = _named(chosen, pairs)
    channels = _msd_channels(about, pairs, source)
    modality = _modality(chosen["modality"], channels, {} if "modality" in about else pairs)
    meta = _meta("msd", about, chosen, channels, modality, _by_class(named))
    return _survey(meta, pairs, rejected, chosen["group"])


def survey_nnunet(source: Path, options: Mapping[str, Any]) -> Survey:
    """List a raw nnU-Net data set (version 2, or 1 with `modality`); raises BadSource."""
    chosen = settings("nnunet", NNUNET.options, options)
    about = read_description(source)
    channels = _nnunet_channels(about, source) if about else ()
    ending = ending_of(about, source)
    images, labels = _folder(source, "imagesTr", ending), _folder(source, "labelsTr", ending)
    parts: dict[str, dict[int, list[Path]]] = {}
    for name, paths in images.items():
        if match := _CHANNEL.fullmatch(name):
            parts.setdefault(match[1], {})[int(match[2])] = paths
    if not parts:
        raise BadSource(f"{source}: no file in imagesTr is named CASE_0000{ending}")
    if not channels:
        count = 1 + max(number for mine in parts.values() for number in mine)
        channels = tuple(f"channel_{number}" for number in range(count))
    # A colour picture's only file holds all its channels.
    colour = ending in PICTURES and not any(any(mine) for mine in parts.values())
    of_files = channels[:1] if colour else channels
    files: dict[str, tuple[Path, ...]] = {}
    rejected = []
    for case in sorted({*parts, *labels}):
        mine = [parts.get(case, {}).get(number, []) for number in range(len(of_files))]
        faults = [
            _count_fault(f"channel {channel}", paths)
            for channel, paths in zip(of_files, mine, strict=True)
        ]
        faults.append(_count_fault("label", labels.get(case, [])))
        if reason := next((fault for fault in faults if fault), None):
            rejected.append(BadCase(reason, where=case, key=case))
        else:
            files[case] = (*(paths[0] for paths in mine), labels[case][0])
    if not files:
        raise BadSource(f"{source} holds no image with its label{_first(rejected)}")
    modality = _modality(chosen["modality"], channels, {} if about else files)
    if about and not chosen["labels"]:
        meanings = _nnunet_labels(about, source)
    else:
        meanings = _by_class(_named(chosen, files))
    meta = _meta("nnunet", about, chosen, channels, modality, meanings)
    found = _survey(meta, files, rejected, chosen["group"])
    if ending in NIFTI:
        return found
    items = [other_item(item.key, item.extra["group"], item.paths) for item in found.items]
    return replace(found, meta=other_meta(meta, files, ending), items=tuple(items))


def read_nnunet(item: Item, meta: Meta) -> Iterator[Case | BadCase]:
    """Yield the case of an item, in NIfTI or another format."""
    yield from (read_pair if "way" in meta.options else read)(item, meta)


# Files


def _folder(source: Path, name: str, ending: str = NIFTI[0]) -> dict[str, list[Path]]:
    folder = source / name
    if not folder.is_dir():
        raise BadSource(f"{source} has no folder {name}")
    return _stems(sorted(folder.iterdir()), ending)


def _stems(paths: Sequence[Path], ending: str = NIFTI[0]) -> dict[str, list[Path]]:
    found: dict[str, list[Path]] = {}
    endings = NIFTI if ending in NIFTI else (ending,)
    for path in paths:
        if (name := stem(path, endings)) is not None:
            found.setdefault(name, []).append(path)
    return {name: without_copies(same) for name, same in found.items()}


def _msd_files(source: Path) -> tuple[dict[str, list[Path]], dict[str, list[Path]]]:
    if (source / "imagesTr").is_dir():
        return _folder(source, "imagesTr"), _folder(source, "labelsTr")
    flat = _stems(sorted(source.iterdir()))
    images, labels = (
        {name.removesuffix(end): paths for name, paths in flat.items() if name.endswith(end)}
        for end in ("_image", "_label")
    )
    if not images:
        raise BadSource(f"{source} has neither a folder imagesTr nor files CASE_image.nii.gz")
    return images, labels


def _count_fault(what: str, paths: Sequence[Path]) -> str | None:
    if len(paths) == 1:
        return None
    missing = "the image has no label" if what == "label" else f"the {what} is missing"
    return f"there are {len(paths)} files for the {what}" if paths else missing


def _first(rejected: Sequence[BadCase]) -> str:
    return f": {rejected[0].where}: {rejected[0].reason}" if rejected else ""


def _survey(
    meta: Meta, files: Mapping[str, tuple[Path, ...]], rejected: Sequence[BadCase], pattern: str
) -> Survey:
    items = tuple(
        Item(
            key=case,
            paths=paths,
            extra={"group": patient_in(case, pattern, "group") if pattern else case},
        )
        for case, paths in files.items()
    )
    return Survey(meta=meta, items=items, rejected=tuple(rejected))


# dataset.json


def _listed(about: Mapping[str, Any]) -> set[str]:
    """Return the cases that dataset.json lists."""
    training = about.get("training", [])
    entries = training if isinstance(training, list) else []
    names = (entry.get("image") for entry in entries if isinstance(entry, dict))
    stems = (stem(Path(name)) for name in names if isinstance(name, str))
    return {name for name in stems if name is not None}


def _msd_channels(
    about: Mapping[str, Any], pairs: Mapping[str, tuple[Path, Path]], source: Path
) -> tuple[str, ...]:
    if "modality" in about:
        return channels_of(dictionary(about, "modality", source))
    for image, _ in pairs.values():
        try:
            shape = read_header(image).shape
        except NiftiError:
            continue
        return tuple(f"channel_{number}" for number in range(shape[3] if len(shape) > 3 else 1))
    raise BadSource(f"{source} holds no image with a valid header")


def _nnunet_channels(about: Mapping[str, Any], source: Path) -> tuple[str, ...]:
    names = dictionary(about, "channel_names" if "channel_names" in about else "modality", source)
    channels = channels_of(names)
    if sorted(map(number_of, names)) != list(range(len(names))):
        raise BadSource(
            f"dataset.json: channels are numbered {', '.join(names)} instead of 0, 1, ..."
        )
    return channels


def _named(chosen: Mapping[str, Any], files: Mapping[str, tuple[Path, ...]]) -> dict[int, str]:
    """Return the names of label numbers that the user gave, else names of the numbers found."""
    if names := chosen["labels"]:
        return dict(enumerate(name.strip() for name in names.split(",")))
    numbers = found_labels([label for *_, label in files.values()], nan=chosen["nan"])
    return {number: f"label_{number}" if number else "background" for number in numbers}


def _msd_labels(about: Mapping[str, Any], source: Path) -> dict[int, str]:
    return by_number(dictionary(about, "labels", source))


def _by_class(named: Mapping[int, str]) -> _Labels:
    """Make each foreground class a region, but BraTS's regions of BraTS's classes."""
    values = tuple(sorted(named))
    if values[:1] != (0,) or len(values) < 2:
        raise BadSource(
            f"the labels are {', '.join(map(str, values))}: 0 and at least one more are needed"
        )
    classes = tuple(named[value] for value in values)
    plain = tuple(name.lower().replace("tumour", "tumor") for name in classes[1:])
    regions: dict[str, tuple[int, ...]] = {
        name: (index,) for index, name in enumerate(classes) if index
    }
    if plain == _BRAIN_TUMOUR:
        regions = dict(_BRAIN_TUMOUR_REGIONS)
    return _Labels(values=values, classes=classes, regions=regions)


def _nnunet_labels(about: Mapping[str, Any], source: Path) -> _Labels:
    """Return the labels of nnU-Net, where one name may cover several numbers (a region).

    `ignore` marks unlabelled voxels and must be the highest number (nnU-Net's
    documentation/ignore_label.md).
    """
    labels = dict(dictionary(about, "labels", source))
    if "ignore" not in labels:
        return _named_labels(about, labels, source)
    if isinstance(labels["ignore"], list):
        raise BadSource("dataset.json: label 'ignore' is a list of numbers; it must be one number")
    ignore = number_of(labels.pop("ignore"))
    found = _named_labels(about, labels, source)
    if ignore <= found.values[-1]:
        raise BadSource(
            f"dataset.json: label 'ignore' is {ignore}; it must be the highest of all, above "
            f"{found.values[-1]}"
        )
    return replace(found, ignore=ignore)


def _named_labels(about: Mapping[str, Any], labels: Mapping[str, Any], source: Path) -> _Labels:
    if all(str(name).isdigit() for name in labels):
        return _by_class(_msd_labels(about, source))
    united: dict[str, tuple[int, ...]] = {}
    for name, value in labels.items():
        numbers = tuple(map(number_of, value if isinstance(value, list) else [value]))
        if set(numbers) in map(set, united.values()):
            shown = ", ".join(map(str, numbers[:10]))
            raise BadSource(f"dataset.json: two names have the same label {shown}")
        united[name_of(name)] = numbers
    if united.get("background") != (0,):
        raise BadSource(f"{source / 'dataset.json'}: label 'background' is not 0")
    if all(len(numbers) == 1 for numbers in united.values()):
        return _by_class({numbers[0]: name for name, numbers in united.items()})
    values = tuple(sorted({0, *(number for numbers in united.values() for number in numbers)}))
    single = {numbers[0]: name for name, numbers in united.items() if len(numbers) == 1}
    regions = {
        name: tuple(values.index(number) for number in numbers)
        for name, numbers in united.items()
        if name != "background"
    }
    classes = tuple(single.get(value, f"label_{value}") for value in values)
    return _Labels(values=values, classes=classes, regions=regions)


def _modality(chosen: str, channels: Sequence[str], unnamed: Mapping[str, tuple[Path, ...]]) -> str:
    """Return ct or mri, as chosen or by the channels' names; raises BadSource.

    `unnamed` are cases (images, then the label) whose channels have no names; one is read.
    """
    if chosen not in MODALITIES:
        known = ", ".join(MODALITIES)
        raise BadSource(f"option modality is {chosen!r}; it must be one of {known}")
    if chosen != "auto":
        return chosen
    are_ct = {bool(CT_WORDS & set(re.findall("[a-z]+", name.lower()))) for name in channels}
    if are_ct == {True}:
        return "ct"
    how = (
        "set modality=ct (one scale for all cases, from the training part) or "
        "modality=mri (each case has its own)"
    )
    if True in are_ct:
        raise BadSource(f"of the channels {', '.join(channels)} only some are CT: {how}")
    for *images, _ in unnamed.values():
        try:
            lowest = {path.name: read_voxels(path, read_header(path)).min() for path in images}
        except NiftiError:
            continue  # reported when it is read
        if below := [name for name, level in lowest.items() if level < CT_BELOW]:
            raise BadSource(
                f"{below[0]} has values down to {lowest[below[0]]:g}, like CT, and no "
                f"dataset.json names its modality: {how}"
            )
        break
    return "mri"


def _meta(
    kind: str,
    about: Mapping[str, Any],
    chosen: Mapping[str, Any],
    channels: tuple[str, ...],
    modality: str,
    labels: _Labels,
) -> Meta:
    is_ct = modality == "ct"
    spacing, reading = chosen_spacing(kind, chosen), chosen_reading(kind, chosen)
    ignored: dict[str, JSON] = {} if labels.ignore is None else {"ignore": labels.ignore}
    try:
        return Meta(
            kind=kind,
            name=text_of(about, "name") or kind,
            task="segmentation",
            dims=3,
            channels=channels,
            classes=labels.classes,
            regions=labels.regions,
            positive=None,
            normalize="train" if is_ct else "case",
            fill=AIR if is_ct else 0.0,
            unit="volume",
            group_source="patient" if chosen["group"] else "case",
            source=text_of(about, "reference") or "unknown",
            licence=text_of(about, "licence") or text_of(about, "license") or "unknown",
            options={
                "label_values": (*labels.values, *ignored.values()),
                **ignored,
                "lowest": AIR if is_ct else None,
                "modality": modality,
                **spacing,
                **reading,
            },
        )
    except ValueError as error:
        raise BadSource(f"dataset.json: {error}") from None


MSD = Kind(
    name="msd",
    summary="volumes and label maps as in the Medical Segmentation Decathlon",
    source="Antonelli et al. 2022, 10.1038/s41467-022-30695-9; http://medicaldecathlon.com",
    survey=survey_msd,
    read=read,
    options=_OPTIONS,
)
NNUNET = Kind(
    name="nnunet",
    summary="a raw data set of nnU-Net",
    source="Isensee et al. 2021, 10.1038/s41592-020-01008-z; github.com/MIC-DKFZ/nnUNet",
    survey=survey_nnunet,
    read=read_nnunet,
    options=_OPTIONS,
)
