"""BraTS: every release since 2017, each with its own names and its own meaning of the labels.

A file is identified by its name alone, wherever under the source it is. The patient is the group if
the name contains it (2023 and later): otherwise scans of one patient could be on both sides of a
split. From 2017 to 2021, each year holds the cases of earlier years under new names; only the
official name_mapping.csv tells which are one patient. The paediatric sets of 2023 and 2024 have the
same names but number their labels differently, and metastases have one more label since 2025, so
the user must choose among them. The radiotherapy set (BraTS-MEN-RT: one channel, another outline)
is not supported.
"""

import logging
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from loaders.cases import BadCase, BadSource, Item, Kind, Meta, Survey, settings
from loaders.datasets.brats.name_mapping import patients_of
from loaders.datasets.resample import SPACING, chosen_spacing, read
from loaders.formats.nifti import OPTIONS as READING
from loaders.formats.nifti import chosen_reading, found_labels, stem, without_copies

log = logging.getLogger(__name__)

# Role in the file's name to channel, in the order in which channels are stored.
_OLD = {"t1": "t1n", "t1ce": "t1c", "t2": "t2w", "flair": "t2f"}
_NEW = {"t1n": "t1n", "t1c": "t1c", "t2w": "t2w", "t2f": "t2f"}
_CORES = ("background", "necrotic or non-enhancing core", "oedema", "enhancing tumour")
# Nested: whole tumour, tumour core, enhancing tumour.
_REGIONS = {"WT": (1, 2, 3), "TC": (1, 3), "ET": (3,)}


@dataclass(frozen=True, kw_only=True)
class Release:
    """How the files of some years are named, and what their labels mean.

    `pattern` matches a file's name without its ending: groups `case`, `patient` and `role`.
    `label_values[i]` is the number in the files of `classes[i]`.
    """

    name: str
    pattern: re.Pattern[str]
    roles: dict[str, str]
    label_values: tuple[int, ...]
    classes: tuple[str, ...] = _CORES
    regions: dict[str, tuple[int, ...]] = field(default_factory=lambda: dict(_REGIONS))
    group_source: str
    source: str


def _since_2023(tumours: str, scans: str = r"-\d{3}", **changes: Any) -> Release:
    """Return a release named BraTS-TUMOUR-PATIENT-SCAN-ROLE, with the labels of 2023 or others."""
    pattern = re.compile(
        rf"(?P<case>(?P<patient>BraTS-(?:{tumours})-\d{{5}}){scans})"
        r"-(?P<role>t1n|t1c|t2w|t2f|seg)"
    )
    usual = {"roles": _NEW, "label_values": (0, 1, 2, 3), "group_source": "patient"}
    return Release(pattern=pattern, **{**usual, **changes})


RELEASES = {
    "2018": Release(
        name="BraTS 2017-2021",
        pattern=re.compile(
            r"(?P<case>(?P<patient>brats(?:17|18|19|20|2021)_.+))_(?P<role>t1|t1ce|t2|flair|seg)",
            re.IGNORECASE,
        ),
        roles=_OLD,
        # 3 was merged into 1 in 2017, and 4 kept its number.
        label_values=(0, 1, 2, 4),
        group_source="case",
        source="Baid et al. 2021, arXiv 2107.02314; Menze et al. 2015, 10.1109/TMI.2014.2377694",
    ),
    "2023": _since_2023(
        "GLI|SSA",
        r"-0\d\d",
        name="BraTS 2023",
        source="Adewole et al. 2023, arXiv 2305.19369; Baid et al. 2021, arXiv 2107.02314",
    ),
    "2023-men": _since_2023(
        "MEN",
        name="BraTS 2023 meningioma",
        source="LaBella et al. 2024, 10.1038/s41597-024-03350-9",
    ),
    "2023-met": _since_2023(
        "MET",
        name="BraTS 2023 metastases",
        source="Moawad et al. 2023, arXiv 2306.00838",
    ),
    "2023-ped": _since_2023(
        "PED",
        name="BraTS 2023 paediatric",
        source="Kazerooni et al. 2023, arXiv 2305.17033",
    ),
    # Scans after treatment are numbered from 100 on, and 4 is the resection cavity.
    "2024": _since_2023(
        "GLI",
        r"-[1-9]\d\d",
        name="BraTS 2024 post-treatment",
        label_values=(0, 1, 2, 3, 4),
        classes=(*_CORES, "resection cavity"),
        regions={**_REGIONS, "RC": (4,)},
        source="de Verdier et al. 2024, arXiv 2405.18368",
    ),
    # New numbers: 1 is the enhancing tumour (github.com/MIC-DKFZ/nnUNet/issues/3042).
    "2024-ped": _since_2023(
        "PED",
        name="BraTS 2024 paediatric",
        label_values=(0, 1, 2, 3, 4),
        classes=("background", "enhancing tumour", "non-enhancing tumour", "cyst", "oedema"),
        regions={
            "WT": (1, 2, 3, 4),
            "TC": (1, 2, 3),
            "ET": (1,),
            "NET": (2,),
            "CC": (3,),
            "ED": (4,),
        },
        source="Kazerooni et al. 2024, arXiv 2404.15009",
    ),
    # Cases of the sets of 2023 under new names, which reveal neither patient nor scan. The labels
    # are those of 2023, as all conversions of the set assume (its pages need a login).
    "2024-goat": _since_2023(
        "GoAT",
        "",
        name="BraTS 2024 generalizability across tumours",
        group_source="case",
        source="https://www.synapse.org/Synapse:syn60084146",
    ),
    # Before and after treatment; 4 is the resection cavity.
    "2025-met": _since_2023(
        "MET",
        name="BraTS 2025 metastases",
        label_values=(0, 1, 2, 3, 4),
        classes=(*_CORES, "resection cavity"),
        regions={**_REGIONS, "RC": (4,)},
        source="Maleki et al. 2025, arXiv 2504.12527",
    ),
}
# The years whose names have one form; each but the first repeats cases of earlier ones.
_YEAR = re.compile(r"brats(17|18|19|20|2021)_", re.IGNORECASE)
# The segmentation of case 355 of 2020 is named W39_1998.09.19_Segm.nii.
_STRAY_LABEL = re.compile(r"[^_]+_.+_Segm")
_TUMOUR = re.compile(r"BraTS-(?P<tumour>[A-Za-z-]+?)-\d+(-\d+)?(-|$)")


@dataclass(frozen=True, kw_only=True)
class _Files:
    """The files of one case by role; two files for a role are an error."""

    patient: str
    folder: Path
    roles: dict[str, list[Path]]


def survey(source: Path, options: Mapping[str, Any]) -> Survey:
    """Find the cases under a folder by the names of their files; raises BadSource."""
    chosen = settings("brats", BRATS.options, options)
    if chosen["release"] not in ("auto", *RELEASES):
        known = ", ".join(("auto", *RELEASES))
        raise BadSource(f"option release is {chosen['release']!r}; it must be one of {known}")
    spacing, reading = chosen_spacing("brats", chosen), chosen_reading("brats", chosen)
    release, cases, alone = _find(source, chosen["release"])
    patients = _patients(source, release, cases, chosen["mapping"])
    items, rejected = [], []
    for case, files in sorted(cases.items()):
        reason = _fault(files, release)
        if reason is None and patients and case.casefold() not in patients:
            reason = "the mapping does not list the case, so its patient is unknown"
        if reason is not None:
            where = str(files.folder.relative_to(source) / case)
            rejected.append(BadCase(reason, where=where, key=case))
            continue
        paths = tuple(files.roles[role][0] for role in (*release.roles, "seg"))
        group = patients.get(case.casefold(), files.patient)
        items.append(Item(key=case, paths=paths, extra={"group": group}))
    if not alone:
        _warn_of_labels(release, items)
    # A set of 2023 with several tumours lists them in its name, wherever that is shown.
    tumours = sorted({match["tumour"] for case in cases if (match := _TUMOUR.match(case))})
    meta = Meta(
        kind="brats",
        name=f"{release.name} ({' and '.join(tumours)})" if len(tumours) > 1 else release.name,
        task="segmentation",
        dims=3,
        channels=tuple(release.roles.values()),
        classes=release.classes,
        regions=release.regions,
        positive=None,
        normalize="case",
        fill=0.0,
        unit="volume",
        group_source="patient" if patients else release.group_source,
        source=release.source,
        licence="unknown",
        options={"label_values": release.label_values, "lowest": None, **spacing, **reading},
    )
    return Survey(meta=meta, items=tuple(items), rejected=tuple(rejected))


def _patients(
    source: Path, release: Release, cases: Mapping[str, _Files], mapping: str
) -> dict[str, str]:
    """Return the patient of each name in the mapping; empty if there is no mapping.

    Raises BadSource if the cases are of several years and no mapping tells which are one patient.
    """
    if mapping:
        if release.group_source != "case":
            raise BadSource(
                f"option mapping is not for {release.name}, whose names contain the patient"
            )
        return patients_of(source, mapping)
    years = sorted({match[1][-2:] for case in cases if (match := _YEAR.match(case))})
    if len(years) > 1:
        held = " and ".join(f"20{year}" for year in years)
        raise BadSource(
            f"{source} holds cases of {held}: each year repeats patients of earlier years "
            "under new names. Prepare one year, or set mapping=name_mapping.csv (the path under "
            "the source of the official file, which tells which are one patient)"
        )
    return {}


def _warn_of_labels(release: Release, items: Sequence[Item]) -> None:
    """Warn if no case uses a label: the files may be of another release with the same names."""
    unused = set(release.label_values)
    for item in items:
        unused -= set(found_labels([item.paths[-1]]))
        if not unused:
            return
    if items:
        names = " and ".join(
            f"{value} ({name})"
            for value, name in zip(release.label_values, release.classes, strict=True)
            if value in unused
        )
        log.warning(
            "None of %d cases has the label %s of %s. Another release has the same file names "
            "but other meanings of the labels: is this the right one?",
            len(items),
            names,
            release.name,
        )


def named_as(label: str) -> Iterator[tuple[str, re.Match[str]]]:
    """Yield each release with such names, and the match of a file's name without its ending."""
    for year, release in RELEASES.items():
        if match := release.pattern.fullmatch(label):
            yield year, match


def _find(source: Path, chosen: str) -> tuple[Release, dict[str, _Files], bool]:
    """Return the release of the files under `source`, and its cases; raises BadSource.

    The third value tells whether no other release has such names.
    """
    if not source.is_dir():
        raise BadSource(f"there is no folder {source}")
    found: dict[str, dict[str, _Files]] = {}
    strays: dict[Path, list[Path]] = {}
    others: set[str] = set()
    for folder, _, names in os.walk(source):
        for name in sorted(names):
            path = Path(folder, name)
            label = stem(path)
            if label is None:
                continue
            for year, match in named_as(label):
                cases = found.setdefault(year, {})
                new = _Files(patient=match["patient"], folder=path.parent, roles={})
                roles = cases.setdefault(match["case"], new).roles
                roles.setdefault(match["role"].lower(), []).append(path)
            if _STRAY_LABEL.fullmatch(label):
                strays.setdefault(path.parent, []).append(path)
            if other := _TUMOUR.match(label):
                others.add(other["tumour"])
    year = _release(source, chosen, found, others)
    for files in found[year].values():
        files.roles.update({role: without_copies(same) for role, same in files.roles.items()})
        if "seg" not in files.roles and files.folder in strays:
            files.roles["seg"] = strays[files.folder]
    return RELEASES[year], found[year], len(found) == 1


def _release(
    source: Path, chosen: str, found: Mapping[str, Mapping[str, _Files]], others: set[str]
) -> str:
    """Return which of the releases `found` is meant; raises BadSource if that is unknown."""
    if not found or chosen not in ("auto", *found):
        wanted = RELEASES.values() if chosen == "auto" else (RELEASES[chosen],)
        hint = f" (files of BraTS-{min(others)} are there)" if others else ""
        known = ", ".join(release.name for release in wanted)
        raise BadSource(f"{source} holds no files named as in {known}{hint}")
    if len({tuple(cases) for cases in found.values()}) > 1:
        names = " and ".join(RELEASES[year].name for year in found)
        raise BadSource(
            f"{source} holds {names}, which are different sets: prepare them separately"
        )
    if chosen == "auto" and len(found) > 1:
        names = " and ".join(RELEASES[year].name for year in found)
        known = " or ".join(f"release={year}" for year in found)
        raise BadSource(f"{names} have the same names but differ in their labels: set {known}")
    return next(iter(found)) if chosen == "auto" else chosen


def _fault(files: _Files, release: Release) -> str | None:
    for role, paths in files.roles.items():
        if len(paths) > 1:
            return f"there are {len(paths)} files for {role}"
    missing = [role for role in release.roles if role not in files.roles]
    if len(missing) == len(release.roles):
        return "the label has no image"
    if missing:
        return f"channel {missing[0]} is missing"
    return None if "seg" in files.roles else "the image has no label"


BRATS = Kind(
    name="brats",
    summary="brain tumours in four-channel MRI, files as in BraTS 2017 to 2025",
    source="https://www.synapse.org/brats",
    survey=survey,
    read=read,
    options={
        "release": ("auto", f"auto: by the file names; else {', '.join(RELEASES)}"),
        "mapping": ("", "for 2017 to 2021: path under the source of name_mapping.csv; or several"),
        **SPACING,
        **READING,
    },
)
