"""The data of the demo: two phantoms in their true formats, prepared like real scans.

One process per core does this: in a single process it took an eighth of the demo's time.
"""

import multiprocessing
import sys
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import replace
from importlib import import_module
from importlib.resources import files
from pathlib import Path
from typing import Any

from loaders.cases import Kind, Survey
from loaders.cores import usable_cores
from loaders.datasets.table import KINDS
from loaders.phantoms.make import make_brats, make_lidc
from loaders.store.prepare import prepare
from loaders.store.pseudonyms import user_key
from loaders.store.write import begin_worker

# Chosen so that data, 60 trials and report fit in four minutes on two cores (measured, LOG.md).
PATIENTS = {"lidc": 24, "brats": 18}
SEED = 2026

MAKERS: dict[str, Callable[..., None]] = {"lidc": make_lidc, "brats": make_brats}


# Modules that a run imports, which takes seconds; torch imports the last with the first optimizer.
_OF_A_RUN = ("bench.execution.local", "bench.execution.phases.race", "torch._dynamo")
# Forked workers start with everything imported here; on other systems a fork may break.
_START = "fork" if sys.platform == "linux" else "spawn"


def make_demo(out: Path, told: Callable[[str], None]) -> Path:
    """Make the demo's scans and stores under `out`, except those that exist.

    Meanwhile imports what the run needs. Returns the study file, a copy of the ready study `demo`.
    """
    missing = [name for name in MAKERS if not (out / "stores" / name).exists()]
    if missing:
        pool = ProcessPoolExecutor(
            usable_cores(),
            mp_context=multiprocessing.get_context(_START),
            initializer=begin_worker,
        )
        try:
            _make_stores(missing, out, pool, told)
        finally:
            pool.shutdown(cancel_futures=True)
    study = out / "demo.yaml"
    study.write_text(
        (files("bench") / "ready_studies" / "demo.yaml").read_text(encoding="utf-8"),
        encoding="utf-8",
    )
    return study


def _make_stores(
    missing: list[str], out: Path, pool: ProcessPoolExecutor, told: Callable[[str], None]
) -> None:
    preparing: list[Future[None]] = []
    for name in missing:
        scans, store = out / "scans" / name, out / "stores" / name
        if not scans.exists():
            told(f"making {PATIENTS[name]} phantom patients ({name}) in {scans}")
            MAKERS[name](scans, patients=PATIENTS[name], seed=SEED, each=pool.map)
        told(f"preparing {store}")
        preparing.append(pool.submit(_prepare, name, scans, store))
    for module in _OF_A_RUN:
        import_module(module)
    for prepared in preparing:
        prepared.result()


def _prepare(name: str, scans: Path, store: Path) -> None:
    prepare(_of_nobody(KINDS[name]), scans, store, key=user_key(), strict=True)


def _of_nobody(kind: Kind) -> Kind:
    """Return the same kind, whose stores say that they hold phantoms."""

    def survey(source: Path, options: Mapping[str, Any]) -> Survey:
        found = kind.survey(source, options)
        made = f"phantom images in the format of {kind.name}, of no patient"
        meta = replace(found.meta, source=made, licence="none needed: made data")
        return replace(found, meta=meta)

    return replace(kind, survey=survey)
