"""The schedules of the learning rate: one row each.

A schedule is a function of the share of the budget of sample-gradients that is spent, so an
optimizer that evaluates many times per step follows the same curve as one that evaluates once. Its
value multiplies the learning rate of each group of parameters.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import cos, pi
from typing import Any

from bench.core.settings import Setting, check_bounds, merge

# (share of the budget spent before a step, share that one batch costs) -> factor of the learning
# rate in that step; shares are 0 to 1.
Factor = Callable[[float, float], float]

# Least and greatest value of a setting, by its name: no factor is negative, or so large that its
# powers overflow. The largest factor and power are assumptions.
BOUNDS: dict[str, tuple[float, float]] = {
    "at": (0, 1),
    "end": (0, 1),
    "factor": (0, 10),
    "floor": (0, 1),
    "power": (0, 100),
    "start": (0, 1),
}


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """One schedule of the table.

    `shape(progress, **settings)` gives the factor at `progress`, the share (0 to 1) of the budget
    after the warm-up. The setting `warmup` is the share of the budget in which the factor first
    rises linearly, over w batches from 1/w at the first to 1 at the last. `defaults` names every
    setting that a study may change.
    """

    name: str
    shape: Callable[..., float]
    defaults: Mapping[str, Setting]
    summary: str
    source: str

    def settings(self, given: Mapping[str, Any]) -> dict[str, Setting]:
        """Return every setting: the defaults with `given` over them.

        Raises ValueError if a setting is unknown or of another type, if `warmup` or `rise` is not
        in [0, 1), or if another is outside BOUNDS.
        """
        found = merge(f"schedule {self.name}", self.defaults, given)
        for name in ("warmup", "rise"):
            share = found.get(name, 0.0)
            assert isinstance(share, float)
            if not 0 <= share < 1:
                raise ValueError(
                    f"schedule setting {self.name}.{name} must be a share of the budget, from 0 to "
                    f"below 1, not {share:g}"
                )
        check_bounds(f"schedule {self.name}", found, BOUNDS)
        return found

    def falls(self, given: Mapping[str, Any]) -> bool:
        """Return whether the rate falls at the end of the budget; it must then run to the end."""
        return self.bind(given)(1.0, 0.0) < 1

    def bind(self, given: Mapping[str, Any]) -> Factor:
        """Return the factor as a function of the shares of the budget spent and of one batch."""
        settings = self.settings(given)
        warmup = settings.pop("warmup")
        assert isinstance(warmup, float)

        def factor(spent: float, batch: float) -> float:
            if spent < warmup:
                # As of the end of the step: a rate of 0 would waste the first one.
                return min((spent + batch) / warmup, 1.0)
            return self.shape((spent - warmup) / (1 - warmup), **settings)

        return factor


def constant(progress: float) -> float:
    """Return 1."""
    del progress
    return 1.0


def step(progress: float, *, at: tuple[float, ...], factor: float) -> float:
    """Return `factor` to the power k, where k of the shares `at` have been passed."""
    return float(factor ** sum(progress >= share for share in at))


def cosine(progress: float, *, floor: float) -> float:
    """Return half a cosine from 1 to `floor`."""
    return floor + (1 - floor) * (1 + cos(pi * progress)) / 2


def polynomial(progress: float, *, power: float) -> float:
    """Return (1 - progress)^power."""
    return float((1 - progress) ** power)


def one_cycle(progress: float, *, rise: float, start: float, end: float) -> float:
    """Return half a cosine from `start` up to 1 over the share `rise`, and one down to `end`."""
    if progress < rise:
        return 1 + (start - 1) * (1 + cos(pi * progress / rise)) / 2
    return end + (1 - end) * (1 + cos(pi * (progress - rise) / (1 - rise))) / 2


SCHEDULES: dict[str, Schedule] = {
    row.name: row
    for row in (
        Schedule(
            name="constant",
            shape=constant,
            defaults={"warmup": 0.0},
            summary="the learning rate as it is set, throughout",
            source="both papers: Adam at a fixed 1e-3",
        ),
        Schedule(
            name="warmup",
            shape=constant,
            # 5 of 90 epochs, as in the source.
            defaults={"warmup": 0.05},
            summary="a linear rise over the first part of the budget, then constant",
            source="Goyal et al. 2017, arXiv 1706.02677, section 2.2",
        ),
        Schedule(
            name="step",
            shape=step,
            # A tenth at a half and at three quarters of the budget: 32k and 48k of 64k iterations.
            defaults={"at": (0.5, 0.75), "factor": 0.1, "warmup": 0.0},
            summary="a tenth of the rate from one half of the budget on, and again from 3/4 on",
            source="He et al. 2016, arXiv 1512.03385, section 4.2",
        ),
        Schedule(
            name="cosine",
            shape=cosine,
            defaults={"floor": 0.0, "warmup": 0.0},
            summary="half a cosine down to 0",
            source="Loshchilov and Hutter 2017, arXiv 1608.03983, equation 5, without restarts",
        ),
        Schedule(
            name="warmup_cosine",
            shape=cosine,
            # AlgoPerf's NadamW baseline warms up for 5 % of the steps.
            defaults={"floor": 0.0, "warmup": 0.05},
            summary="a linear rise, then half a cosine down to 0",
            source="Dahl et al. 2023 (AlgoPerf), arXiv 2306.07179",
        ),
        Schedule(
            name="one_cycle",
            shape=one_cycle,
            # torch.optim.lr_scheduler.OneCycleLR: 1/25, up over 30 %, down to 1/25 * 1e-4.
            defaults={"rise": 0.3, "start": 0.04, "end": 4e-6, "warmup": 0.0},
            summary="up to the rate over three tenths of the budget, then down to almost 0",
            source="Smith and Topin 2018, arXiv 1708.07120; torch's OneCycleLR, momentum untouched",
        ),
        Schedule(
            name="polynomial",
            shape=polynomial,
            defaults={"power": 0.9, "warmup": 0.0},
            summary="(1 - share of the budget spent)^0.9, as in nnU-Net",
            source="Isensee et al. 2021 (nnU-Net), doi 10.1038/s41592-020-01008-z",
        ),
    )
}
