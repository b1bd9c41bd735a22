"""Prices to a target: counted by hand on trials whose every look is written down here."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from scipy import stats

from results.prices import contenders, prices, smallest_factor, target_of
from results.tables.schema import TABLES, TRIALS
from results.verdict.combinations import Contest, contests
from results.verdict.doubts import no_rows

INF = math.inf
METRICS = {
    "auc": {"direction": "max", "range": [0, 1], "unit": "1"},
    "hd95": {"direction": "min", "range": [0, None], "unit": "mm"},
}


@dataclass(frozen=True, kw_only=True)
class Run:
    """One trial: inner scores look by look, `samples` a look, seconds of each sample."""

    optimizer: str
    scores: Sequence[float | None]
    loss: str = "ce"
    fold: int = 0
    samples: int = 100
    each: float = 0.01
    status: str = "ok"
    shared: bool | None = False
    target: float | None = None
    device: str = "GPU"
    dataset: str = "scans"


def contest_of(runs: Sequence[Run], metric: str = "auc") -> tuple[Contest, Callable[..., Any]]:
    """Return the contest of some runs, and what gives the rows of their epochs."""
    (contest,), rows_of = contests_of(runs, metric)
    return contest, rows_of


def contests_of(
    runs: Sequence[Run], metric: str = "auc"
) -> tuple[list[Contest], Callable[..., Any]]:
    trials, epochs = [], []
    for number, run in enumerate(runs):
        scores = [score for score in run.scores if score is not None]
        ok = run.status == "ok"
        best = (max if metric == "auc" else min)(scores, default=None)
        trials.append(
            dict.fromkeys(TRIALS.names)
            | {"trial_id": f"t{number}", "dataset": run.dataset, "task": "classification"}
            | {"model": "cnn", "optimizer": run.optimizer, "loss": run.loss, "fold": run.fold}
            | {"repeat": 0, "seed": 0, "status": run.status, "primary_metric": metric}
            | {"val_score": best if ok else None, "test_score": best if ok else None}
            | {"shared_device": run.shared, "target": run.target, "device_name": run.device}
            | {"peak_memory_bytes": 1000 + number}
        )
        epochs += [
            {"trial_id": f"t{number}", "epoch": look, "val_score": score}
            | {"sample_gradients": run.samples * look, "gradient_evaluations": 10 * look}
            | {"elapsed_sec": run.each * run.samples * look, "samples_per_sec": 1 / run.each}
            for look, score in enumerate(run.scores, 1)
        ]

    def rows_of(table: str, ids: Sequence[str], _columns: Sequence[str]) -> pa.Table:
        assert table == "epochs"
        # Backwards: no order is promised.
        found = [row for row in reversed(epochs) if row["trial_id"] in set(ids)]
        return pa.Table.from_pylist(found, schema=TABLES[table])

    return contests(trials, {}, METRICS), rows_of


def test_the_price_is_samples_to_the_target_times_the_seconds_of_one():
    contest, rows_of = contest_of(
        [
            Run(optimizer="adam", scores=[0.5, 0.7, 0.9], target=0.7, each=0.01),
            Run(optimizer="adam", scores=[0.7, 0.6, 0.9], target=0.7, each=0.03, fold=1),
            Run(optimizer="sgd", scores=[0.6, None, 0.71], target=0.7, each=0.02),
            Run(optimizer="sgd", scores=[0.6, 0.65, 0.69], target=0.7, each=0.02, fold=1),
        ]
    )
    found = prices(contest, rows_of, 0.05)
    assert found is not None
    assert found.target.said == "AUC 0.700 on inner validation, set by the study"
    adam, sgd = found.rows
    assert (adam.name, adam.reached, adam.ended) == ("cnn + adam + ce", 2, 2)
    assert adam.sample_gradients == 150  # 200 and 100
    assert adam.evaluations == 15
    assert adam.seconds == pytest.approx((2.0 + 3.0) / 2)
    assert adam.sample_sec == pytest.approx(0.02)
    assert adam.price == pytest.approx(3.0)
    assert adam.memory == 1001
    # One of two reached it, at 300: no more than half did.
    assert (sgd.reached, sgd.ended) == (1, 2)
    assert sgd.sample_gradients == sgd.seconds == sgd.price == INF


def test_seconds_of_trials_side_by_side_are_no_price():
    runs = [Run(optimizer="adam", scores=[0.9], shared=True, each=9.0, fold=1)]
    alone = [*runs, Run(optimizer="adam", scores=[0.9], each=0.01)]
    one = prices(*contest_of(alone), 0.05)
    assert one is not None
    assert one.rows[0].sample_sec == pytest.approx(0.01)
    none = prices(*contest_of(runs), 0.05)
    assert none is not None
    assert none.rows[0].price is None
    assert none.rows[0].seconds == pytest.approx(900)
    assert "No trial had its device to itself" in none.noise


def test_what_was_measured_apart_goes_before_what_the_trials_took():
    runs = [
        Run(optimizer="adam", scores=[0.9], each=0.01),
        Run(optimizer="sgd", scores=[0.9], each=0.01, device="other"),
    ]
    contest, rows_of = contest_of(runs)
    own = {
        ("scans", f"cnn + {name} + ce"): [
            {"sample_sec": cost, "device_name": "GPU"} for cost in costs
        ]
        for name, costs in (("adam", [0.02, 0.04]), ("sgd", [0.05, 0.05]))
    }
    found = prices(contest, rows_of, 0.05, own)
    assert found is not None
    assert found.measured
    assert [row.sample_sec for row in found.rows] == pytest.approx([0.03, 0.05])
    assert [row.price for row in found.rows] == pytest.approx([3.0, 5.0])
    # One of two is not enough: two sources are no comparison.
    part = prices(contest, rows_of, 0.05, {k: v for k, v in own.items() if "adam" in k[1]})
    assert part is not None
    assert not part.measured
    assert [row.price for row in part.rows] == [None, None]


def test_what_diverged_after_the_target_never_reached_it_and_failed_trials_do_not_count():
    runs = [
        Run(optimizer="adam", scores=[0.9], target=0.7),
        Run(optimizer="adam", scores=[0.9], target=0.7, status="diverged", fold=1),
        Run(optimizer="adam", scores=[0.9], target=0.7, status="failed", fold=2),
        Run(optimizer="adam", scores=[0.9], target=0.7, status="dropped", fold=3),
    ]
    found = prices(*contest_of(runs), 0.05)
    assert found is not None
    assert (found.rows[0].reached, found.rows[0].ended) == (1, 2)
    assert found.rows[0].sample_gradients == INF


def test_without_a_target_it_is_nine_tenths_of_the_way_from_chance_to_the_best():
    runs = [
        Run(optimizer="adam", scores=[0.9, 0.8]),
        Run(optimizer="adam", scores=[0.8, 0.7], fold=1),
        Run(optimizer="sgd", scores=[0.7]),
        Run(optimizer="sgd", scores=[0.7], fold=1),
    ]
    target = target_of(contest_of(runs)[0])
    assert target is not None
    assert target.value == pytest.approx(0.5 + 0.9 * 0.35)  # 0.85, adam's mean over folds
    assert target.said == (
        "AUC 0.815 on inner validation: 90 % of the way from 0.5 to the highest mean over folds of "
        "any combination (0.850). The study sets no target"
    )
    distance = [Run(optimizer="adam", scores=[9.0, 4.5, 5.0]), Run(optimizer="sgd", scores=[9.0])]
    contest, rows_of = contest_of(distance, "hd95")
    found = prices(contest, rows_of, 0.05)
    assert found is not None
    assert found.target.value == pytest.approx(5.0)
    assert found.rows[0].sample_gradients == 200
    assert found.rows[1].sample_gradients == INF


def test_nothing_scored_has_no_price():
    runs = [Run(optimizer="adam", scores=[None], status="diverged")]
    assert prices(*contest_of(runs), 0.05) is None
    contest, _ = contest_of([Run(optimizer="adam", scores=[0.9])])
    assert prices(contest, no_rows, 0.05) is None


# ---- noise -----------------------------------------------------------------------------------


def test_two_combinations_are_compared_as_by_scipys_t_interval():
    rng = np.random.default_rng(0)
    first, second = np.exp(rng.normal(0, 0.2, (2, 7)))
    factor = smallest_factor([list(first), list(second)], 0.05)
    interval = stats.ttest_ind(np.log(first), np.log(second)).confidence_interval(0.95)
    assert factor is not None
    assert math.log(factor) == pytest.approx((interval.high - interval.low) / 2, rel=1e-9)


@pytest.mark.parametrize("m", [2, 6])
def test_equal_costs_are_told_apart_in_no_more_than_alpha(m):
    rng = np.random.default_rng(1)
    false = 0
    for _ in range(400):
        logs = rng.normal(0, 0.1, (m, 5))
        factor = smallest_factor([list(np.exp(row)) for row in logs], 0.05)
        means = logs.mean(axis=1)
        false += factor is not None and math.exp(means.max() - means.min()) > factor
    # 20 of 400 are expected at most; 33 or more have a probability of 0.3 %.
    assert false <= stats.binom.ppf(0.997, 400, 0.05)


def test_too_few_trials_tell_nothing():
    assert smallest_factor([[1.0], [2.0]], 0.05) is None
    assert smallest_factor([[1.0, 2.0]], 0.05) is None


def noise(costs: dict[str, Sequence[float]], **settings: Any) -> str:
    runs = [
        Run(optimizer=name, scores=[0.9], each=each, fold=fold, **settings)
        for name, of_folds in costs.items()
        for fold, each in enumerate(of_folds)
    ]
    found = prices(*contest_of(runs), 0.05)
    assert found is not None
    return found.noise


def test_the_sentence_says_what_noise_allows():
    wild = noise({"adam": [0.01, 0.02, 0.04], "sgd": [0.02, 0.01, 0.05]})
    assert wild.startswith(
        "Differences between the combinations' costs per sample-gradient cannot be"
    )
    assert "be distinguished from noise: the highest is 1.00 times the lowest, and these" in wild
    calm = noise({"adam": [0.0100, 0.0101, 0.0099], "sgd": [0.0200, 0.0201, 0.0199]})
    assert "costs of a sample-gradient that differ by less than 1.0" in calm
    assert "the highest is 2.00 times the lowest" in calm
    assert "is not known" in noise({"adam": [0.01], "sgd": [0.02]})


def test_seconds_of_different_devices_are_not_compared():
    runs = [
        Run(optimizer="adam", scores=[0.9], device="A"),
        Run(optimizer="adam", scores=[0.9], device="B", fold=1),
    ]
    found = prices(*contest_of(runs), 0.05)
    assert found is not None
    assert "Trials ran on A and B: times on different devices cannot be compared" in found.noise
    assert found.rows[0].price is None


# ---- optimizers over problems ----------------------------------------------------------------


def test_optimizers_meet_on_the_problems_that_all_ran():
    runs = [
        Run(optimizer="adam", scores=[0.5, 0.9], target=0.7, each=0.01),
        Run(optimizer="sgd", scores=[0.9, 0.9], target=0.7, each=0.04),
        Run(optimizer="adam", scores=[0.9, 0.9], target=0.7, each=0.01, loss="focal"),
        Run(optimizer="sgd", scores=[0.5, 0.5], target=0.7, each=0.02, loss="focal"),
        # No sgd on this one, and on the next it failed.
        Run(optimizer="adam", scores=[0.9], target=0.7, fold=1),
        Run(optimizer="adam", scores=[0.9], target=0.7, fold=2),
        Run(optimizer="sgd", scores=[0.9], target=0.7, fold=2, status="failed"),
    ]
    other = [
        Run(optimizer="sgd", scores=[0.1, 0.2, 0.3], target=0.3, dataset="loops", samples=10),
        Run(optimizer="adam", scores=[0.1, 0.3, 0.1], target=0.3, dataset="loops", samples=10),
    ]
    every, rows_of = contests_of([*runs, *other])
    priced = [prices(contest, rows_of, 0.05) for contest in every]
    found = contenders([one for one in priced if one is not None])
    assert found is not None
    assert found.names == ("adam", "sgd")
    assert found.left_out == 2
    assert found.sample_gradients.tolist() == [[200, 100, 20], [100, INF, 30]]
    assert found.alone
    assert found.seconds == pytest.approx(np.array([[2.0, 1.0, 0.2], [4.0, INF, 0.3]]))


def test_one_optimizer_has_nobody_to_meet():
    one = prices(*contest_of([Run(optimizer="adam", scores=[0.9])]), 0.05)
    assert one is not None
    assert contenders([one]) is None
    apart = [Run(optimizer="adam", scores=[0.9]), Run(optimizer="sgd", scores=[0.9], fold=1)]
    two = prices(*contest_of(apart), 0.05)
    assert two is not None
    assert contenders([two]) is None
