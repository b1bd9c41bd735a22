"""What a folder seems to be: each kind that its file names suggest is tried on it.

The names only suggest; a kind's own survey then decides whether it fits and, if not, what is
missing. So nothing is reported here that `medopt prepare` would not report.
"""

import re
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from loaders.cases import BadCase, BadSource, Survey
from loaders.datasets.brats.kind import named_as
from loaders.datasets.columns_seen import Seen, answers_seen, names_files
from loaders.datasets.pairs.layouts import LAYOUTS, with_layout
from loaders.datasets.pairs.patterns import Files, folder_of, known_of
from loaders.datasets.pairs.suggested import patterns_seen
from loaders.datasets.table import KINDS
from loaders.datasets.tabular.labels import is_table
from loaders.formats.nifti import stem
from loaders.formats.pictures import SUFFIXES
from loaders.formats.video import SUFFIXES as VIDEOS
from loaders.formats.volumes.open import volume_stem

_BRATS = re.compile(r"brats|[-_](?:flair|t2f|t1ce|t1c)\.nii", re.IGNORECASE)
# Endings of DICOM files, which may have none.
_DICOM = (".dcm", ".dicom", ".ima", "")
# Endings that no DICOM file has.
_NO_DICOM = (".csv", ".tsv", ".txt", ".json", ".xml", ".npz", ".md", ".pdf", ".xlsx", *VIDEOS)
# Masks of DICOM series are looked for in the first files of each folder, or in all files of a
# source that has no more than this many (assumptions).
_FIRST, _PROBED_WHOLE = 3, 2000
# Images whose masks are looked for, to find how masks are named (assumption).
_PROBES = 50


@dataclass(frozen=True, kw_only=True)
class Seems:
    """One thing that a folder may be.

    `missing` is the reason why it cannot be prepared as this kind, one sentence with the choices.
    If it is empty, `cases` are usable and `rejected` are not. `grouped`: patients are known.
    """

    kind: str
    options: dict[str, str]
    why: str
    missing: str = ""
    cases: int = 0
    rejected: int = 0
    grouped: bool = False


def recognize(source: Path) -> list[Seems]:
    """Return what a source may be, best fit first; raises BadSource if it holds no file."""
    if source.is_file():
        found = list(_medmnist([source.name]))
    else:
        files = Files(source)
        if not files.names:
            raise BadSource(f"{source} holds no files")
        found = list(_suggested(source, files)) or list(_loosely_brats(files.names))
    tried = [_tried(source, kind, options, why) for kind, options, why in found]
    # A suggestion without cases is no answer if another has some: its column may name no files.
    if any(seems.cases for seems in tried):
        tried = [seems for seems in tried if seems.cases or seems.missing]
    return sorted(tried, key=lambda seems: (bool(seems.missing), -seems.cases))


_Suggestion = tuple[str, dict[str, str], str]


def _tried(source: Path, kind: str, options: dict[str, str], why: str) -> Seems:
    try:
        survey = KINDS[kind].survey(source, options)
    except BadSource as error:
        return Seems(kind=kind, options=options, why=why, missing=str(error))
    return Seems(
        kind=kind,
        options=options,
        why=why,
        cases=_cases(survey),
        rejected=len(survey.rejected),
        grouped=survey.meta.group_source == "patient",
    )


def _cases(survey: Survey) -> int:
    return sum(item.cases for item in survey.items)


def _suggested(source: Path, files: Files) -> Iterator[_Suggestion]:
    """Yield the kinds that the file names suggest."""
    names = files.names
    pictures = [name for name in names if PurePosixPath(name).suffix.lower() in SUFFIXES]
    tables = sorted(path for path in source.iterdir() if is_table(path))
    seen = (answers_seen(tables[0]) if len(tables) == 1 else []) or [Seen(options={}, why="")]
    layouts = list(_layouts(source, files))
    yield from layouts
    if (source / "imagesTr").is_dir() and (source / "labelsTr").is_dir():
        channels = any(re.search(r"_\d{4}\.[^/]+$", name) for name in names)
        kind = "nnunet" if channels else "msd"
        yield kind, {}, "it has the folders imagesTr and labelsTr"
        return
    labels = (label for name in names if (label := stem(Path(name))))
    if any(True for label in labels for _ in named_as(label)):
        yield "brats", {}, "its files are named like those of BraTS"
    if mask := _dicom_mask(source, names):
        why = f"{mask} is a segmentation or a structure set of a DICOM series"
        yield "pairs", {"layout": "dicom"}, why
        return
    if any(name.lower().endswith(".xml") for name in names) and any(
        PurePosixPath(name).suffix.lower() in (".dcm", "") for name in names
    ):
        yield "lidc", {}, "it has DICOM files and XML, like LIDC-IDRI"
    yield from _medmnist(names)
    if tables and any(PurePosixPath(name).suffix.lower() in VIDEOS for name in names):
        yield from _tabled("cine", {}, f"it has videos and the table {tables[0].name}", seen)
    pairs: list[_Suggestion] = []
    if not layouts:
        pairs = [("pairs", options, why) for options, why in patterns_seen(names)]
    yield from pairs
    if tables:
        yield from _volumes(names, tables[0], seen)
    if tables and pictures:
        yield from _tabled("images", {}, f"it has pictures and the table {tables[0].name}", seen)
    elif pictures and not pairs and not layouts:
        yield "images", {}, "it has pictures in folders, perhaps one folder for each class"


def _loosely_brats(names: list[str]) -> Iterator[_Suggestion]:
    """Yield BraTS for names that only resemble its own; it may be a release that is not known."""
    if name := next(filter(_BRATS.search, names), None):
        yield "brats", {}, f"the name of {name} resembles those of BraTS"


def _layouts(source: Path, files: Files) -> Iterator[_Suggestion]:
    for name in LAYOUTS:
        settings, _ = with_layout(source, {"layout": name})
        for image, parts in files.fitting(settings["images"], {})[:_PROBES]:
            if files.fitting(settings["masks"], known_of(image, parts)):
                yield (
                    "pairs",
                    {"layout": name},
                    f"{image} has its mask where that layout expects it",
                )
                break


def _tabled(
    kind: str, options: dict[str, str], why: str, seen: list[Seen]
) -> Iterator[_Suggestion]:
    for one in seen:
        yield kind, {**options, **one.options}, ", ".join(filter(None, (why, one.why)))


def _volumes(names: list[str], table: Path, seen: list[Seen]) -> Iterator[_Suggestion]:
    if any(map(volume_stem, names)):
        yield from _tabled("volumes", {}, f"it has volumes and the table {table.name}", seen)
    elif any(PurePosixPath(name).suffix.lower() in _DICOM for name in names):
        by = {} if names_files(table, names) else {"by": "PatientID"}
        why = f"it has DICOM files and the table {table.name}" + (
            ", perhaps of patients" * bool(by)
        )
        yield from _tabled("volumes", by, why, seen)


def _dicom_mask(source: Path, names: list[str]) -> str:
    """Return a file that is a mask of a DICOM series, empty if none of those examined is.

    In a large source only the first files of each folder are examined, since a series usually has
    a folder of its own.
    """
    from loaders.formats.scans.masks import FORMS, class_of

    seen: Counter[str] = Counter()
    for name in names:
        seen[folder_of(name)] += 1
        dicom = PurePosixPath(name).suffix.lower() not in _NO_DICOM and not volume_stem(name)
        if not dicom or (seen[folder_of(name)] > _FIRST and len(names) > _PROBED_WHOLE):
            continue
        with suppress(BadCase, OSError):
            if class_of(source / name, "") in FORMS["dicom"]:
                return name
    return ""


def _medmnist(names: list[str]) -> Iterator[_Suggestion]:
    from loaders.datasets.medmnist.catalogue import INFO

    for name in names:
        path = PurePosixPath(name)
        if path.suffix == ".npz" and (known := re.sub(r"_\d+$", "", path.stem)) in INFO:
            yield "medmnist", {"name": known}, f"{name} is named like a set of MedMNIST"
