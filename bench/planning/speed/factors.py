"""The factors that may compute the same trial faster: one row each."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from bench.study.schema import Study
from bench.study.tasks import TASKS
from bench.study.trial import Trial
from bench.training.evaluate import WINDOWS

# The work of a trial: it is set up, loads batches, computes gradients, takes steps along them, and
# scores cases, in the end with costlier metrics.
Part = Literal["setup", "load", "gradient", "update", "evaluation", "test"]


@dataclass(frozen=True, kw_only=True)
class Factor:
    """One key of a study that decides how fast a trial is computed, and not what it learns.

    `others` returns its alternatives to the value that a trial has in the study, none if there is
    nothing to choose. `part` is the work that it makes faster or slower.
    """

    key: str
    part: Part
    others: Callable[[Study, Trial], tuple[Any, ...]]
    summary: str


def _windows(_study: Study, trial: Trial) -> tuple[int, ...]:
    if not TASKS[trial.task].windows:
        return ()
    plain = trial.windows_at_once or max(WINDOWS, trial.batch_size)
    return tuple(count for count in (1, 2 * plain, 4 * plain) if count != plain)


FACTORS: dict[str, Factor] = {
    row.key: row
    for row in (
        Factor(
            key="channels_last",
            part="gradient",
            others=lambda _study, trial: (not trial.channels_last,),
            summary="memory order: channels innermost, or one plane per channel",
        ),
        Factor(
            key="compiled",
            part="gradient",
            others=lambda _study, trial: (not trial.compiled,),
            summary="torch.compile",
        ),
        Factor(
            key="precision",
            part="gradient",
            # Scores may change: only what the study allows.
            others=lambda study, trial: tuple(
                name
                for name in (study.speed.precision if study.speed else ())
                if name != trial.precision
            ),
            summary="precision of convolutions and products, if `speed` lists several",
        ),
        Factor(
            key="cudnn_benchmark",
            part="gradient",
            others=lambda study, trial: (
                (not trial.cudnn_benchmark,) if study.device == "cuda" else ()
            ),
            summary="cuDNN tries its kernels and keeps the fastest",
        ),
        Factor(
            key="cuda_graph",
            part="gradient",
            others=lambda study, trial: (not trial.cuda_graph,) if study.device == "cuda" else (),
            summary="CUDA graphs of the network: few launches in place of one for each kernel",
        ),
        Factor(
            key="windows_at_once",
            part="evaluation",
            others=_windows,
            summary="windows of an image that go through the network together",
        ),
    )
}


def free(study: Study, trial: Trial, part: Part) -> dict[str, tuple[Any, ...]]:
    """Return the factors of some work that may be chosen, with their alternatives to the plain.

    Keys that the study's file sets itself are not changed.
    """
    found = {
        row.key: row.others(study, trial)
        for row in FACTORS.values()
        if row.part == part and row.key not in study.model_fields_set
    }
    return {key: values for key, values in found.items() if values}
