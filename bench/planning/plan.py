"""Turns a study into the plan of its run: every automatic setting is fixed.

Everything that decides a result is written into the run's `study.yaml` and `folds.parquet` when it
first runs. Running the study again resumes it. The axes may grow; a changed protocol, or changed
data, needs another run.
"""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import torch
import yaml

from bench.core.references import StudyError
from bench.core.undisturbed import undisturbed
from bench.metrics.table import METRICS, OF_THE_NUMBER
from bench.planning.expand import expand, looks_of
from bench.planning.rehearsal import Failures, rehearse_apart
from bench.planning.resolved import resolved, together
from bench.planning.speed.choice import Found
from bench.planning.speed.study import with_fastest
from bench.storage.objects import is_address
from bench.study import splits
from bench.study.dataset import DataSet, locate, open_once
from bench.study.pretrained import FOLDS
from bench.study.schema import GROWING, DataEntry, Speed, Study, read_study
from bench.study.trial import NUMERICS, Skip, Trial, trial_columns
from bench.training.room import THREADS_BESIDE_A_GPU, room
from loaders.batches.table import LOADERS, fastest_loader
from loaders.cores import usable_cores
from loaders.sampling.folds import FoldError, Split, read_folds, splits_from_table
from loaders.store.layout import StoreError
from loaders.store.read import Store
from results.tables.axes import COLUMNS
from results.tables.encoding import write_parquet
from results.tables.files import replace_file
from results.tables.protocol import DEFAULTS
from results.tables.rule import fix_rule
from results.tables.schema import FINAL_STATUSES
from results.tables.store import footer, read
from results.text import count


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A study ready to run: the folder of its results, its data, its trials and its skips.

    `base` is the folder that paths and references in the study are relative to. `found` is what
    `speed: auto` measured, None if nothing was measured.
    """

    folder: Path
    study: Study
    base: Path
    sets: tuple[DataSet, ...]
    trials: tuple[Trial, ...]
    skips: tuple[Skip, ...]
    found: Found | None = None

    def data(self, name: str) -> DataSet:
        """Return a data set by its name in the results."""
        return next(d for d in self.sets if d.name == name)

    def here(self) -> "Plan":
        """Return the plan with its data on this machine's disk; raises as `DataSet.here`."""
        return replace(self, sets=tuple(data.here() for data in self.sets))

    def only(self, trial_id: str) -> "Plan":
        """Return the plan with one trial; raises StudyError if it has no such trial."""
        chosen = tuple(t for t in self.trials if t.trial_id == trial_id)
        if not chosen:
            raise StudyError(
                f"this study has no trial {trial_id!r}: `medopt plan --json` lists them."
            )
        return replace(self, trials=chosen)


def _untold(_done: int, _known: int) -> None:
    pass


@undisturbed()
def resolve(
    study: Study,
    base: Path,
    folder: Path,
    *,
    lanes: int | None = 1,
    cores: int | None = None,
    cuda: bool | None = None,
    devices: int = 1,
    told: Callable[[int, int], None] = _untold,
) -> Plan:
    """Fix every automatic setting of a study and expand it; writes nothing.

    The user's own code is tried here; what it changes in this process is restored.

    `lanes` trials will run at once on one machine's `cores`, each with a GPU if `cuda`. `cores`
    None: those that this process may use; a new run may not have more `threads` than these cores.
    `cuda` None: whether this process sees a GPU. `lanes` None on a CPU: as many as its cores and
    memory hold, with one thread each. `devices` is the number of devices that share each trial. An
    existing run folder keeps the settings it was made with. If the study says `speed: auto`, the
    fastest settings of models that are new to the run are measured here; `told` is called with
    (measurements done, measurements known of).

    Raises StudyError if the study, its data or its folds cannot be used, if it asks for another
    protocol than the run's, or if the run's trials have ids of an older version.
    """
    before = earlier(folder)
    gpus = torch.cuda.is_available() if cuda is None else cuda
    if cores is None:
        cores = usable_cores()
        if before is None:
            _check_threads(study, cores)
    automatic = lanes is None and before is None and study.threads is None
    by_hand = study.margin is not None
    study = _fix(study, before, max(cores // (lanes or 1), 1), cuda=gpus)
    if before and study.folds != before.folds:  # else the saved folds would seem damaged
        raise _other("folds", before.folds, study.folds)
    saved = _saved_folds(folder)
    entries: list[DataEntry] = []
    sets: list[DataSet] = []
    # A store may have changed since an earlier call in this process.
    open_once.cache_clear()
    for entry in study.data:
        path = locate(entry.store, base, folder.parent / "stores")
        outside = None if entry.test is None else locate(entry.test, base, folder.parent / "stores")
        try:
            own, store = open_once(path), open_once(path, outside)
        except StoreError as error:
            raise StudyError(f"data {entry.store!r}: {error}") from error
        name = entry.name or store.meta.name
        if name in {d.name for d in sets}:
            raise StudyError(f"data: two data sets are called {name!r}; give one of them a `name`.")
        # Folds made here are made once; predefined ones may have changed since.
        called = entry.model_copy(update={"name": name})
        made = partial(splits.make, study, called, store, own, base)
        given = isinstance(study.folds, str) or outside is not None
        found = _splits(saved.get(name), study, store, name, made() if given else ()) or made()
        if len(found) < study.repeats * (study.folds if isinstance(study.folds, int) else 0):
            # A look has added repeats: the saved ones stay.
            known = {split.repeat for split in found}
            found = [*found, *(split for split in made() if split.repeat not in known)]
        entries.append(
            called.model_copy(
                update={
                    "store": _named(entry.store, path, folder),
                    "content": store.content_hash,
                    "test": outside and _named(str(entry.test), outside, folder),
                    "n_folds": len(found) if isinstance(study.folds, str) else None,
                    "deviation": None
                    if by_hand and entry.deviation is None
                    else _deviation(name, study.primary[store.meta.task], store, before),
                    "speed": _speeds(entry, name, before),
                }
            )
        )
        sets.append(
            DataSet(
                name=name,
                path=path,
                splits=tuple(found),
                outside=outside,
                notes=splits.told(study, entry, store, found),
                address=entry.store if is_address(entry.store) else None,
                outside_address=entry.test if is_address(entry.test or "") else None,
            )
        )
    study = study.model_copy(update={"data": tuple(entries)})
    if study.looks == "auto":
        study = study.model_copy(
            update={"looks": before.looks if before else looks_of(study, sets)}
        )
    if before:
        _same_protocol(study, before)
    failures: list[Failures] = []

    def tried(*asked: Any) -> Failures:
        if not failures:
            failures.append(rehearse_apart(*asked))
        return failures[0]

    if automatic:
        # Threads depend on what a trial needs, and ids on threads: so expand, choose, and expand.
        first, _ = expand(study, sets, base, devices=devices, tried=tried)
        named = {data.name: data for data in sets}
        chosen = room(first, named.__getitem__, base, device=study.device, cores=cores)
        study = study.model_copy(update={"threads": chosen.threads})
    found_here = None
    if study.speed is not None:
        first, _ = expand(study, sets, base, devices=devices, tried=tried)
        study, found_here = with_fastest(
            study,
            sets,
            base,
            first,
            cores=cores,
            lanes=lanes,
            free_threads=automatic,
            cuda=torch.cuda.is_available(),
            devices=devices,
            told=told,
        )
    trials, skips = expand(study, sets, base, devices=devices, tried=tried)
    study = study.model_copy(update={"resolved": resolved(study, base)})
    same_ids(folder, trials)
    return Plan(
        folder=folder,
        study=study,
        base=base,
        sets=tuple(sets),
        trials=tuple(trials),
        skips=tuple(skips),
        found=found_here,
    )


def _deviation(name: str, metric: str, store: Store, before: Study | None) -> float | None:
    """Return the unit of the margin on a data set: one standard deviation, to three digits.

    None if the margin is in the metric's own unit, also in a run made before this was recorded.
    0.01 standard deviations of RMSE are about 0.01 of R², the margin of any other metric.
    """
    known = {data.name: data.deviation for data in before.data} if before else {}
    if name in known or METRICS[metric].unit != OF_THE_NUMBER:
        return known.get(name)
    return float(f"{store.numbers.std():.3g}") or None


def _speeds(entry: DataEntry, name: str, before: Study | None) -> dict[str, Speed] | None:
    """Return how models are computed on a data set: as an earlier call found, or as given."""
    earlier_ones = {data.name: data.speed for data in before.data} if before else {}
    kept = earlier_ones.get(name)
    return entry.speed if kept is None else {**kept, **(entry.speed or {})}


def _named(entry: str, path: Path, folder: Path) -> str:
    """Return a store's place as written in a run: an address, or a path relative to its folder."""
    return entry if is_address(entry) else os.path.relpath(path, folder)


def ends_early(plan: Plan) -> list[str]:
    """Say which trials patience may end before their budget is spent, and which not."""
    found: dict[str, dict[str, None]] = {}
    for trial in plan.trials:
        looks, patience = trial.looks or trial.epochs, trial.patience
        end = "train for their whole budget"
        if trial.stops and patience < looks:
            end = f"end early after {patience} looks without a better score"
        elif trial.stops:
            end += f": a patience of {patience} cannot end a trial of {count(looks, 'look')}"
        found.setdefault(end, {})[trial.choices["schedule"].label] = None
    return [f"trials with schedule {' or '.join(each)} {end}" for end, each in found.items()]


def save(plan: Plan) -> None:
    """Write `study.yaml`, `folds.parquet` and, in a new run, `rule.json`, each whole or not at all.

    An axis that grew keeps the entries of earlier calls, since their results are in the run too.
    """
    plan.folder.mkdir(parents=True, exist_ok=True)
    study = plan.study
    before = earlier(plan.folder)
    if before:
        grown: dict[str, Any] = {axis: _union(before, study, axis) for axis in GROWING}
        grown["resolved"] = together(before.resolved, study.resolved)
        study = study.model_copy(update=grown)
    content = study.model_dump(mode="json")
    fix_rule(plan.folder, content)
    text = yaml.safe_dump(content, sort_keys=False, allow_unicode=True)
    replace_file(plan.folder / "study.yaml", text.encode())
    tables = {**_saved_folds(plan.folder)}
    for data in plan.sets:
        tables[data.name] = data.folds()
    sink = pa.BufferOutputStream()
    # Folds saved by an older version lack columns, which become null.
    write_parquet(pa.concat_tables(tables.values(), promote_options="default"), sink)
    replace_file(plan.folder / FOLDS, sink.getvalue().to_pybytes())


def earlier(folder: Path) -> Study | None:
    """Return the study of a run as it was fixed, None if there is no run."""
    path = folder / "study.yaml"
    if not path.exists():
        return None
    try:
        study = read_study(path, str(path))
    except StudyError as error:
        raise StudyError(
            f"{error}\nThe run was made from this file: restore it, or move it away to have it "
            f"written anew from your study."
        ) from error
    # A run from before this setting existed looks after each epoch.
    return study.model_copy(update={"looks": None}) if study.looks == "auto" else study


def _saved_folds(folder: Path) -> dict[str, pa.Table]:
    path = folder / FOLDS
    if not path.exists():
        return {}
    try:
        table = read_folds(path)
    except FoldError as error:
        raise StudyError(
            f"{error}. Move it away to have the folds made anew from `split_seed`: trials finished "
            f"on the same folds are not run again."
        ) from error
    names = table.column("dataset").unique().to_pylist()
    return {n: table.filter(pc.equal(table.column("dataset"), n)) for n in names}


def _splits(
    table: pa.Table | None, study: Study, store: Store, name: str, given: Sequence[Split]
) -> list[Split] | None:
    """Return the folds that an earlier call saved, checked against the present store.

    `given` are the present predefined splits, or those of an outside test store.
    """
    if table is None:
        return None
    try:
        found = splits_from_table(table.drop_columns("dataset"), store.case_ids)
        splits.check(found, study, store, given)
    except FoldError as error:
        raise StudyError(
            f"folds.parquet no longer fits the store of {name!r}: {error} "
            f"Choose another run folder, or restore the store."
        ) from error
    return found


def _check_threads(study: Study, cores: int) -> None:
    """Raise StudyError if a trial asks for more threads than the cores it may use here.

    A run begun elsewhere is not checked: its threads are part of its ids.
    """
    if study.threads is not None and study.threads > cores:
        raise StudyError(
            f"threads: the study asks for {study.threads} for each trial, but only "
            f"{count(cores, 'core')} can be used here (limited by the machine, a quota or "
            f"OMP_NUM_THREADS). Ask for {cores} at most, or leave `threads` out."
        )


def _fix(study: Study, before: Study | None, threads: int, *, cuda: bool) -> Study:
    if study.device == "cuda" and not cuda:
        raise StudyError(
            "device: the study asks for cuda, but there is no CUDA GPU here; see `medopt doctor`."
        )
    device = study.device if study.device != "auto" else ("cuda" if cuda else "cpu")
    most = THREADS_BESIDE_A_GPU if device == "cuda" else threads
    automatic = {
        "device": before.device if before else device,
        "threads": before.threads if before else min(threads, most),
        "loader": before.loader if before else fastest_loader(device),
        "race": before.race if before else None,
        "margin": before.margin if before else DEFAULTS["margin"],
    }
    asked = {
        "race": study.race is not None,
        "margin": study.margin is not None,
        "device": study.device != "auto",
        "threads": study.threads is not None,
        "loader": study.loader != "auto",
    }
    fixed: Study = study.model_copy(update={k: v for k, v in automatic.items() if not asked[k]})
    if not LOADERS[fixed.loader].available():
        works = ", ".join(name for name, row in LOADERS.items() if row.available())
        raise StudyError(
            f"loader: {fixed.loader!r} is not installed here (`medopt doctor` says more). "
            f"Choices: {works}; they give the same samples."
        )
    return fixed


# What null means for these settings; for the others it is a value that is found.
_OF_NULL = {"looks": "one look after each epoch"} | dict.fromkeys(
    ("clip", "ema", "race", "until_decided", "target", "tuning", "speed"), "off"
)
# Settings that an option of the command line sets too.
_OPTIONS = {"race": "--race", "until_decided": "--until-decided"}


def _other(key: str, then: Any, now: Any) -> StudyError:
    before, after = (
        _OF_NULL.get(key, "automatic") if value is None else repr(value) for value in (then, now)
    )
    asks = f"the study (or {_OPTIONS[key]})" if key in _OPTIONS else "the study"
    return StudyError(
        f"{key}: this run was made with {before}, but {asks} now says {after}. Choose another run "
        f"folder, or a new name in the study."
    )


def _same_protocol(study: Study, before: Study) -> None:
    """Raise StudyError if anything but the length of the axes differs from the existing run."""
    then, now = (each.model_dump(mode="json") for each in (before, study))
    # Only a study with looks adds repeats by itself.
    looked = ("repeats",) if now["until_decided"] and now["repeats"] > then["repeats"] else ()
    for key in Study.model_fields:
        if key not in (*GROWING, *looked, "resolved") and then[key] != now[key]:
            raise _other(key, then[key], now[key])
    known = {d.name: d for d in before.data}
    for data in study.data:
        if data.name in known and known[data.name].content != data.content:
            raise StudyError(
                f"data: the content of the store of {data.name!r} has changed since this run was "
                f"made. Choose another run folder, or restore the store."
            )
        if data.name in known and known[data.name] != data.model_copy(
            update={
                "store": known[data.name].store,
                "test": known[data.name].test,
                "speed": _of_same_models(data.speed, known[data.name].speed),
            }
        ):
            raise StudyError(
                f"data: the settings of {data.name!r} have changed since this run was made. "
                f"Choose another run folder, or give it another `name`."
            )


def _of_same_models(
    now: dict[str, Speed] | None, before: dict[str, Speed] | None
) -> dict[str, Speed] | None:
    """Leave out models that were added to a run later."""
    return before and {model: (now or {}).get(model, own) for model, own in before.items()}


# The columns that identify a trial within a run; its id also covers how it is computed.
_CELL = ("dataset", *COLUMNS, "repeat", "fold", "seed", "point")


def same_ids(folder: Path, trials: Sequence[Trial]) -> None:
    """Raise StudyError if the run has finished these trials under other ids.

    Since the protocol is the same, another version of the numerics or of the ids made them. With
    edited code of the user's own, or other weights to start from, other ids are right.
    """
    finished = {
        tuple(row[name] for name in _CELL): row["trial_id"]
        for row in read(folder, "trials", columns=[*_CELL, "trial_id", "status"]).to_pylist()
        if row["status"] in FINAL_STATUSES
    }
    if not finished:
        return
    made_by = footer(folder).get("numerics")
    other = [
        trial
        for trial in trials
        if (made_by != NUMERICS or not trial.has_own)
        and finished.get(tuple(trial_columns(trial)[name] for name in _CELL), trial.trial_id)
        != trial.trial_id
    ]
    if other:
        before = f"version {made_by}" if made_by else "an older version"
        raise StudyError(
            f"this run has {count(len(other), 'finished trial')} made by {before} of the numerics, "
            f"under other ids. This is version {NUMERICS}, whose numbers may differ, so all of "
            f"them would be trained again. Choose another run folder for that; "
            f"`medopt report` shows the run as it is."
        )


def _union(before: Study, study: Study, axis: str) -> Sequence[Any]:
    def key(item: Any) -> Any:
        return item.name if axis == "data" else item

    now = {str(key(item)): item for item in getattr(study, axis)}
    return tuple({**{str(key(i)): i for i in getattr(before, axis)}, **now}.values())
