"""Every row of the table of schedules, and the curves of torch's own schedulers."""

import pytest
import torch
from torch.optim import lr_scheduler

from bench.optimizers.schedules import SCHEDULES, Schedule

# A row that is in no table: the contract below needs no edit to meet it.
NEWCOMER = Schedule(
    name="newcomer",
    shape=lambda progress, *, least: max(1 - progress, least),
    defaults={"least": 0.1, "warmup": 0.0},
    summary="a line down",
    source="none",
)
ROWS = [pytest.param(row, id=row.name) for row in (*SCHEDULES.values(), NEWCOMER)]
STEPS = 1000


def test_every_row_is_filed_under_its_name() -> None:
    assert all(name == row.name for name, row in SCHEDULES.items())


@pytest.mark.parametrize("row", ROWS)
def test_factors_lie_between_nothing_and_the_rate_that_is_set(row: Schedule) -> None:
    assert row.summary
    assert row.source
    factor = row.bind({})
    values = [factor(k / STEPS, 1 / STEPS) for k in range(STEPS)]
    assert min(values) > 0
    assert max(values) == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("row", ROWS)
def test_a_warm_up_is_a_line_and_then_the_whole_curve(row: Schedule) -> None:
    warm, cold = row.bind({"warmup": 0.25}), row.bind({"warmup": 0.0})
    # 5 steps of a twentieth of the budget each, and part of one.
    found = [warm(p, 0.05) for p in (0, 0.05, 0.1, 0.2, 0.24)]
    assert found == pytest.approx([0.2, 0.4, 0.6, 1, 1])
    for progress in (0, 0.1, 0.5, 0.9):
        assert warm(0.25 + 0.75 * progress, 0.05) == pytest.approx(cold(progress, 0.05))


def torchs(scheduler: type, **settings: object) -> list[float]:
    """Return the rates that a scheduler of torch gives over STEPS steps, as factors."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    curve = scheduler(optimizer, **settings)
    rates = []
    for _ in range(STEPS):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        curve.step()
    return rates


@pytest.mark.parametrize(
    ("name", "theirs"),
    [
        ("cosine", lambda: torchs(lr_scheduler.CosineAnnealingLR, T_max=STEPS)),
        ("polynomial", lambda: torchs(lr_scheduler.PolynomialLR, total_iters=STEPS, power=0.9)),
        ("step", lambda: torchs(lr_scheduler.MultiStepLR, milestones=[500, 750], gamma=0.1)),
        ("one_cycle", lambda: torchs(lr_scheduler.OneCycleLR, max_lr=1.0, total_steps=STEPS + 1)),
    ],
)
def test_against_torch(name, theirs) -> None:
    factor = SCHEDULES[name].bind({})
    # torch counts from the first step to the last, of which ours has the share: 1 step in 1000.
    found = [factor(k / STEPS, 1 / STEPS) for k in range(STEPS)]
    assert found == pytest.approx(theirs(), abs=6e-3)


@pytest.mark.parametrize("steps", [1, 2, 50])
def test_a_warm_up_starts_at_one_step_of_as_many_as_it_has(steps: int) -> None:
    factor = SCHEDULES["warmup"].bind({"warmup": steps / STEPS})
    found = [factor(k / STEPS, 1 / STEPS) for k in range(STEPS)]
    settings = {"start_factor": 1 / steps, "total_iters": steps - 1}
    assert found == pytest.approx(torchs(lr_scheduler.LinearLR, **settings), rel=1e-9)


@pytest.mark.parametrize(
    ("name", "given", "falls"),
    [
        ("constant", {}, False),
        ("constant", {"warmup": 0.1}, False),
        ("warmup", {}, False),
        ("step", {}, True),
        ("cosine", {}, True),
        ("cosine", {"floor": 0.5}, True),
        ("cosine", {"floor": 1.0}, False),
        ("warmup_cosine", {}, True),
        ("one_cycle", {}, True),
        ("polynomial", {}, True),
    ],
)
def test_a_schedule_falls_if_its_rate_is_lower_at_the_end(name, given, falls) -> None:
    assert SCHEDULES[name].falls(given) == falls


@pytest.mark.parametrize("warmup", [-0.1, 1.0, 3.0])
def test_a_warm_up_is_a_share(warmup: float) -> None:
    with pytest.raises(ValueError, match=r"cosine\.warmup must be a share of the budget"):
        SCHEDULES["cosine"].settings({"warmup": warmup})
