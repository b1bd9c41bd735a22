"""Whole volumes and a table of their classes: 200 DICOM series and a spreadsheet.

A row of the table names a volume (NIfTI, NRRD, MHA, MHD), an enhanced DICOM file, or a folder with
a DICOM series in it or below it; `loaders.datasets.tabular.labels` reads the table. With
by=PatientID, or a UID, it names series by their headers. Axes are reordered to z, y, x as in other
kinds of volumes; nothing is resampled unless `spacing` is set.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from loaders.cases import JSON, BadCase, BadSource, Case, Item, Kind, Meta, Survey, settings
from loaders.datasets.dicom_series import SERIES, one_series, series_below
from loaders.datasets.modality import modality_of
from loaders.datasets.resample import SPACING, chosen_spacing, resampled
from loaders.datasets.tabular.images import asked_of, kept_columns, kept_of, words_in
from loaders.datasets.tabular.labels import OPTIONS as TABLE
from loaders.datasets.tabular.labels import Answers, Row, read_labels
from loaders.datasets.volumes.by_header import BY, ByHeader
from loaders.formats.dicom.series import Series, list_series
from loaders.formats.missing_words import missing
from loaders.formats.nifti import AIR, NiftiError
from loaders.formats.nifti import OPTIONS as READING
from loaders.formats.scans.scan import modality_in, read_scan
from loaders.formats.volumes.open import ENDINGS, open_volume, volume_stem
from loaders.formats.volumes.upright import upright
from loaders.formats.volumes.volume import Volume

OPTIONS: Mapping[str, tuple[JSON, str]] = {
    **TABLE,
    "by": ("", f"if the column image holds no file names but DICOM's {' or '.join(BY)}"),
    "series": SERIES,
    "modality": (
        "auto",
        "ct, mri (each case by itself), other; auto: DICOM's, else mri or an error",
    ),
    "nan": READING["nan"],
    **SPACING,
}
# Volumes examined to determine the properties of a set (assumption).
_PROBES = 16


def survey(source: Path, options: Mapping[str, Any]) -> Survey:
    """List a folder by its table, and the series in each folder that it names; raises BadSource."""
    chosen = settings("volumes", OPTIONS, options)
    spacing = chosen_spacing("volumes", chosen)
    if chosen["nan"] not in ("refuse", "fill"):
        raise BadSource(f"volumes option nan is {chosen['nan']!r}; it must be refuse or fill")
    rejected: list[BadCase] = []
    named = None
    if chosen["by"] and source.is_dir():
        named = ByHeader(source, chosen["by"], chosen["series"], rejected)
    answers = read_labels(source, chosen, suffixes=ENDINGS, frames=None, files=named)
    items: list[Item] = []
    for row in answers.rows:
        try:
            items.append(_item(row, source, chosen["series"], answers, named))
        except BadCase as bad:
            bad.key = row.key
            rejected.append(bad)
    return Survey(
        meta=_meta(chosen, answers, items, spacing),
        items=tuple(items),
        rejected=(*answers.rejected, *rejected),
    )


def _item(row: Row, source: Path, wanted: str, answers: Answers, named: ByHeader | None) -> Item:
    """Return the item of a row; raises BadCase."""
    series: Series | None = None
    if named is not None:
        series = named.of_path[row.path]
    elif row.path.is_dir():
        series = one_series(series_below(row.path, source), wanted, row.key)
    elif volume_stem(row.path.name) is None:
        found, bad = list_series([row.path], source, nameless=True)
        if not found:
            reason = (
                bad[0].reason if bad else f"the file is not a volume ({', '.join(ENDINGS)}, DICOM)"
            )
            raise BadCase(reason, where=row.key)
        series = found[0]
    paths: tuple[Path, ...] = (row.path,)
    group, patient = row.group, answers.grouped
    if series is not None:
        paths = series.paths
        if not (patient or missing(series.patient)):
            group, patient = series.patient, True
    elif row.path.name.lower().endswith(".mhd"):
        paths = (row.path, *_beside(row))
    extra = {
        "group": group,
        "label": row.label,
        "split": row.split,
        "series": series is not None,
        "patient": patient,
        **kept_columns([row]),
    }
    return Item(key=row.key, paths=paths, extra=extra)


def _beside(row: Row) -> tuple[Path, ...]:
    """Return the files of voxels that a header names."""
    try:
        return open_volume(row.path).beside
    except NiftiError:
        return ()  # reported when it is read


def _meta(
    chosen: Mapping[str, Any],
    answers: Answers,
    items: Sequence[Item],
    spacing: Mapping[str, JSON],
) -> Meta:
    headers: set[str] = set()
    volumes: list[Volume] = []
    for at in np.unique(np.linspace(0, len(items) - 1, _PROBES).astype(int)) if items else ():
        item = items[at]
        try:
            if item.extra["series"]:
                headers.add(modality_in(item.paths[0]))
            else:
                volumes.append(open_volume(item.paths[0]))
        except (BadCase, NiftiError):
            continue  # reported when it is read
    modality = modality_of(chosen["modality"], volumes, headers)
    count = volumes[0].shape[3] if volumes and len(volumes[0].shape) > 3 else 1
    ct = modality == "ct"
    grouped = items and all(item.extra["patient"] for item in items)
    return Meta(
        kind="volumes",
        name=chosen["name"]
        or "-".join(filter(None, ("volumes", chosen["finding"], chosen["value"]))),
        task=answers.task,
        dims=3,
        channels=tuple(f"channel_{n}" for n in range(count)) if count > 1 else ("intensity",),
        classes=answers.classes,
        regions={},
        positive=answers.positive,
        normalize="case" if modality == "mri" else "train",
        fill=AIR if ct else 0.0,
        unit="volume",
        group_source="patient" if grouped else "case",
        source="the user's own",
        licence="the user's own",
        options={
            "modality": modality,
            "lowest": AIR if ct else None,
            **({"nan": chosen["nan"]} if chosen["nan"] != "refuse" else {}),
            **spacing,
            **asked_of(chosen),
            **words_in(answers),
        },
    )


def read(item: Item, meta: Meta) -> Iterator[Case]:
    """Yield the volume of an item; raises BadCase."""
    known: dict[str, Any] = meta.options
    try:
        if item.extra["series"]:
            volume = read_scan(item.paths, item.key).volume
        else:
            try:
                volume = open_volume(item.paths[0])
            except NiftiError as error:
                raise NiftiError(f"the image {error}") from None
        image, spacing = upright([volume], lowest=known["lowest"], fill=known.get("nan") == "fill")
    except NiftiError as error:
        raise BadCase(str(error), where=item.key, key=item.key) from None
    if 1 in image.shape[1:]:
        raise BadCase(
            "the volume has only one slice: kind images reads pictures",
            where=item.key,
            key=item.key,
        )
    (kept,) = kept_of(item, 1)
    case = Case(
        key=item.key,
        group=item.extra["group"],
        image=image,
        label=item.extra["label"],
        mask=None,
        spacing=spacing,
        split=item.extra["split"],
        **kept,
    )
    yield resampled(case, known["spacing"]) if "spacing" in known else case


VOLUMES = Kind(
    name="volumes",
    summary="whole volumes (DICOM series, NIfTI, NRRD, MHA, MHD) with their classes in a table",
    source="the user's own: CT, MRI, PET, ultrasound in 3-D",
    survey=survey,
    read=read,
    options=OPTIONS,
)
