"""Checks the parts of a study's folds before anything runs, and warns of rare regions."""

from collections.abc import Iterator

from bench.core.references import StudyError
from bench.metrics.aggregate import headline
from bench.metrics.table import METRICS
from bench.planning.plan import Plan
from bench.study.dataset import DataSet, strata_of
from bench.study.tasks import TASKS
from loaders.sampling.folds import PARTS


def tell_apart(plan: Plan) -> Iterator[str]:
    """Say which parts of the folds hold no case of a region, and where a metric has no value.

    Raises StudyError if the primary metric of a data set has no value on any test part, whatever a
    network answers: nothing could be compared.
    """
    for data in plan.sets:
        yield from _of_primary(data, plan.study.primary[data.store.meta.task])
        yield from _of_strata(data)


def _of_primary(data: DataSet, primary: str) -> Iterator[str]:
    right = TASKS[data.store.meta.task].right

    def without(part: str) -> int:
        return sum(
            headline(right(data.store, getattr(split, part)), primary) is None
            for split in data.splits
        )

    rule = METRICS[primary].empty_rule
    of = len(data.splits)
    if (lost := without("test")) == of:
        raise StudyError(
            f"primary: {primary} has no value on any test part of {data.name!r}, even if every "
            f"answer is right ({rule}). Choose another metric: `medopt list metrics`."
        )
    if lost:
        yield (
            f"{data.name}: {primary} has no value on {lost} of {of} test parts even if every "
            f"answer is right ({rule}); a combination without a value there is not judged"
        )
    if lost := without("inner"):
        yield (
            f"{data.name}: {primary} has no value on {lost} of {of} inner validation parts even if "
            f"every answer is right; there epochs are chosen by false alarms, then by the loss"
        )


def _of_strata(data: DataSet) -> Iterator[str]:
    """Warn of each region or finding that is missing from some part of the folds."""
    strata = strata_of(data.store)
    columns = () if strata["present"] is None else strata["present"].T
    for name, present in zip(strata["names"], columns, strict=True):
        lacking = {
            part: sum(not present[getattr(split, part)].any() for split in data.splits)
            for part in PARTS
        }
        if any(lacking.values()):
            parts = ", ".join(f"{n} {part}" for part, n in lacking.items() if n)
            yield (
                f"{data.name}: {name} is in {int(present.sum())} of "
                f"{len(present)} cases, and not in every part of the {len(data.splits)} folds "
                f"(parts without it: {parts}); use fewer folds, or a larger inner_fraction"
            )
