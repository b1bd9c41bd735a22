"""`speed: auto`: from a study's trials to the task of a search, and the result into the study."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from bench.core.references import StudyError
from bench.planning.compatibility import unfit_for
from bench.planning.speed.choice import Found, Kind, Row, Settings
from bench.planning.speed.factors import Part, free
from bench.planning.speed.search import Asked, Search
from bench.planning.speed.side_by_side import Here, NotMeasuredError
from bench.study.components import Combination
from bench.study.dataset import DataSet
from bench.study.schema import Speed, Study
from bench.study.trial import Trial
from bench.training.room import SHARE, most_bytes, room
from loaders.memory import usable_memory

_PARTS: tuple[Part, ...] = ("gradient", "evaluation")


def with_fastest(
    study: Study,
    sets: Sequence[DataSet],
    base: Path,
    trials: Sequence[Trial],
    *,
    cores: int,
    lanes: int | None,
    free_threads: bool,
    cuda: bool,
    devices: int,
    told: Callable[[int, int], None],
) -> tuple[Study, Found | None]:
    """Return a study that says how each of its models is computed fastest here, and the table.

    `trials` are those of the unchanged study. A model that already has settings on a data set (from
    an earlier call, or from the study's file) keeps them; if all models have some, nothing is
    measured and the table is None. `lanes` trials run at once, None: as many as the machine holds.
    `free_threads`: the threads per trial may be chosen; `cuda`: this machine has a GPU; `devices`
    share each trial. `told` is called with (measurements done, measurements known of).

    Raises StudyError if the unchanged trials cannot be measured.
    """
    known = {
        (data.name, model)
        for entry, data in zip(study.data, sets, strict=True)
        for model in entry.speed or {}
    }
    kinds: dict[Kind, list[Trial]] = {}
    for trial in trials:
        kinds.setdefault((trial.dataset, trial.choices["model"].label), []).append(trial)
    kinds = {kind: own for kind, own in kinds.items() if kind not in known}
    if not kinds:
        return study, None
    if study.device == "cuda" and not cuda:
        raise StudyError(
            "speed: the fastest settings are measured on the device that trains, but there is no "
            "GPU here. Run `medopt plan --json` on a machine that has one, and write what it finds "
            "into the study, as `data: [{store: ..., speed: {model: {setting: value}}}]`."
        )
    named = {data.name: data for data in sets}
    threads = study.threads or 1
    held, no_room = _held(
        threads,
        trials,
        named,
        base,
        cores=cores,
        lanes=lanes,
        others=free_threads,
        cuda=study.device == "cuda",
    )
    asked = Asked(
        threads=threads,
        counts=tuple(count for count in held if count != threads),
        others={
            (kind, part): free(study, own[0], part)
            for kind, own in kinds.items()
            for part in _PARTS
        },
        weights={
            kind: sum(t.epochs * len(named[t.dataset].split(t.repeat, t.fold).train) for t in own)
            for kind, own in kinds.items()
        },
        unfit=_unfit(study, kinds, named, base, devices),
    )
    first = {kind: own[0] for kind, own in kinds.items()}
    machine = Here(first, named, base, device=study.device, lanes=held)
    try:
        found = Search(asked, machine, told).found()
    except NotMeasuredError as error:
        raise StudyError(f"speed: the unchanged study cannot be measured: {error}") from error
    finally:
        machine.end()
    untried = (
        Row(
            dataset=kind[0],
            model=kind[1],
            factor="threads",
            value=str(count),
            ratios=None,
            reason="not measured: memory has no room for its processes beside the others",
        )
        for count in no_room
        for kind in kinds
    )
    found = replace(found, rows=(*found.rows, *untried))
    return _written(study, sets, found), found


def _unfit(
    study: Study,
    kinds: Mapping[Kind, Sequence[Trial]],
    named: Mapping[str, DataSet],
    base: Path,
    devices: int,
) -> Callable[[Kind, Settings], str | None]:
    """Return a function that says why a combination of a model cannot run with other settings."""
    combinations = {
        kind: [
            Combination(choices=trial.choices, base=base)
            for trial in {str(trial.combination): trial for trial in own}.values()
        ]
        for kind, own in kinds.items()
    }

    def why(kind: Kind, settings: Settings) -> str | None:
        asked = study.model_copy(update=dict(settings))
        data, patch = named[kind[0]], kinds[kind][0].patch
        reasons = (unfit_for(each, asked, data, patch, devices) for each in combinations[kind])
        return next((reason for reason in reasons if reason), None)

    return why


def _held(
    threads: int,
    trials: Sequence[Trial],
    named: Mapping[str, DataSet],
    base: Path,
    *,
    cores: int,
    lanes: int | None,
    others: bool,
    cuda: bool,
) -> tuple[dict[int, int], list[int]]:
    """Return {threads per trial: trials side by side} to measure, and threads without room.

    Other numbers of threads are all cores, and 2, 4, ... times the plain number. Their processes
    are alive at the same time, so that they can be measured in turn.
    """
    if cuda:
        return {threads: 1}, []

    def side_by_side(count: int) -> int:
        if lanes is not None:
            return lanes
        found = room(trials, named.__getitem__, base, device="cpu", cores=cores, threads=count)
        return min(found.lanes, len(trials))

    held = {threads: side_by_side(threads)}
    if not others:
        return held, []
    no_room: list[int] = []
    fit = int(SHARE * usable_memory() / most_bytes(trials, named.__getitem__, base))
    doubled = (threads << power for power in range(1, cores.bit_length()))
    for count in dict.fromkeys((cores, *(count for count in doubled if count < cores))):
        if count not in held and sum(held.values()) + side_by_side(count) <= fit:
            held[count] = side_by_side(count)
        elif count not in held:
            no_room.append(count)
    return held, no_room


def _written(study: Study, sets: Sequence[DataSet], found: Found) -> Study:
    """Return the study with the settings found for each data set and model, and the threads."""
    data = []
    for entry, own in zip(study.data, sets, strict=True):
        new = {
            model: Speed(**settings)
            for (dataset, model), settings in found.settings.items()
            if dataset == own.name
        }
        data.append(entry.model_copy(update={"speed": {**(entry.speed or {}), **new}}))
    written: Study = study.model_copy(update={"data": tuple(data), "threads": found.threads})
    return written
