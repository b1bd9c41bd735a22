"""The data of the demo: two phantoms in their true formats, prepared like real scans."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import Any

from loaders.cases import Kind, Survey
from loaders.datasets.table import KINDS
from loaders.phantoms.make import make_brats, make_lidc
from loaders.store.prepare import prepare
from loaders.store.pseudonyms import user_key

# Chosen so that data, 60 trials and report fit in four minutes on two cores (measured, LOG.md).
PATIENTS = {"lidc": 24, "brats": 18}
SEED = 2026

MAKERS: dict[str, Callable[..., None]] = {"lidc": make_lidc, "brats": make_brats}


def make_demo(out: Path, told: Callable[[str], None]) -> Path:
    """Make the demo's scans and stores under `out`, what is there already left alone.

    Returns the study file, a copy of the ready study `demo`.
    """
    for name, make in MAKERS.items():
        scans, store = out / "scans" / name, out / "stores" / name
        if store.exists():
            continue
        if not scans.exists():
            told(f"making {PATIENTS[name]} {name} phantom patients in {scans}")
            make(scans, patients=PATIENTS[name], seed=SEED)
        told(f"preparing {store}")
        prepare(_of_nobody(KINDS[name]), scans, store, key=user_key(), strict=True)
    study = out / "demo.yaml"
    study.write_text(
        (files("bench") / "ready_studies" / "demo.yaml").read_text(encoding="utf-8"),
        encoding="utf-8",
    )
    return study


def _of_nobody(kind: Kind) -> Kind:
    """Return the kind as before, but its stores say that what they hold are phantoms."""

    def survey(source: Path, options: Mapping[str, Any]) -> Survey:
        found = kind.survey(source, options)
        made = f"phantom images in the format of {kind.name}, of no patient"
        meta = replace(found.meta, source=made, licence="none needed: made data")
        return replace(found, meta=meta)

    return replace(kind, survey=survey)
