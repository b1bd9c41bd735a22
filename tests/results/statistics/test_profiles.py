"""Profiles and scores by hand, by scipy, and against what AlgoPerf's authors published."""

import math
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import pyarrow.csv as csv
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import trapezoid

from results.statistics import profiles

INF = math.inf

# Three methods on four problems. The last one nobody solves, the third one alone.
COSTS = [
    [10.0, 30.0, INF, INF],
    [20.0, 10.0, 5.0, INF],
    [15.0, INF, INF, INF],
]


def test_ratios_by_hand():
    assert profiles.ratios(COSTS).tolist() == [
        [1.0, 3.0, INF, INF],
        [2.0, 1.0, 1.0, INF],
        [1.5, INF, INF, INF],
    ]


def test_a_profile_by_hand():
    found = profiles.profile(COSTS, [1.0, 1.4, 1.5, 2.0, 3.0, 100.0])
    assert found.tolist() == [
        [0.25, 0.25, 0.25, 0.25, 0.5, 0.5],
        [0.5, 0.5, 0.5, 0.75, 0.75, 0.75],
        [0.0, 0.0, 0.25, 0.25, 0.25, 0.25],
    ]


def test_the_score_is_the_area_under_the_steps():
    # Without the grid: method 1 has 1/4 over [1, 4] and 1/4 more over [3, 4], and so on.
    areas = [(0.25 * 3 + 0.25 * 1) / 3, (0.5 * 3 + 0.25 * 2) / 3, (0.25 * 2.5) / 3]
    fine = np.linspace(1, 4, 300_001)
    assert profiles.score(COSTS, fine) == pytest.approx(areas, abs=1e-5)
    assert profiles.score(COSTS) == pytest.approx(areas, abs=0.01)


costs = st.lists(
    st.lists(st.one_of(st.just(INF), st.floats(1e-3, 1e6)), min_size=3, max_size=3),
    min_size=1,
    max_size=6,
)


@given(costs)
def test_profile_and_score_agree_with_counting_and_with_scipy(columns):
    """Problem by problem in plain Python, integrated by scipy."""
    taus = np.linspace(1, 4, 100)
    shares = np.zeros((3, 100))
    for column in columns:
        best = min(column)
        for method, cost in enumerate(column):
            for place, tau in enumerate(taus):
                shares[method, place] += cost < INF and cost / best <= tau
    shares /= len(columns)
    table = np.array(columns).T
    assert profiles.profile(table) == pytest.approx(shares)
    assert profiles.score(table) == pytest.approx(trapezoid(shares, taus, axis=1) / 3, abs=1e-12)


@pytest.mark.parametrize(
    ("costs", "middle"),
    [
        ([3.0, 1.0, INF], 3.0),
        ([1.0, INF, INF], INF),
        ([INF, INF], INF),
        ([2.0, 4.0, 6.0, INF], 5.0),
        ([2.0, INF], INF),  # half did: no more than half
    ],
)
def test_censored_medians_by_hand(costs, middle):
    assert profiles.median(costs) == middle


def test_the_first_score_at_the_target_counts_whatever_comes_later():
    scores = [0.2, math.nan, 0.7, 0.8, 0.1]
    assert profiles.reached(scores, 0.7, higher=True) == 2
    assert profiles.reached(scores, 0.2, higher=False) == 0
    assert profiles.reached(scores, 0.81, higher=True) is None
    assert profiles.reached([math.nan], 0.0, higher=True) is None


@pytest.mark.parametrize("cost", [0.0, -1.0, math.nan])
def test_a_cost_that_is_none_is_refused(cost):
    with pytest.raises(ValueError, match="above 0"):
        profiles.ratios([[1.0], [cost]])


# ---- AlgoPerf, as published ----------------------------------------------------------------------


@pytest.fixture(scope="module")
def published(shared_data: Path) -> Path:
    folder = shared_data / "replays" / "algoperf_a100"
    if not folder.is_dir():
        pytest.skip("AlgoPerf's evaluations are not here: no folder replays/algoperf_a100")
    return folder


def times_to_target(folder: Path, cost: str) -> dict[tuple[str, str], float]:
    """Return (submission, workload) -> median over studies of the cost to the target."""
    targets = {row["workload"]: row for row in csv.read_csv(folder / "targets.csv").to_pylist()}
    runs: dict[tuple[str, str, str], list[dict]] = {}
    rows = pq.read_table(folder / "evaluations.parquet")
    assert len(pc.unique(rows["submission"])) == 16
    for row in rows.to_pylist():
        key = row["submission"], row["workload"], f"{row['study']}/{row['trial']}"
        runs.setdefault(key, []).append(row)
    found: dict[tuple[str, str], list[float]] = {}
    for (submission, workload, _), looks in runs.items():
        looks.sort(key=lambda look: look["evaluation"])
        assert {look["metric"] for look in looks} == {targets[workload]["metric"]}
        first = profiles.reached(
            [look["value"] for look in looks],
            targets[workload]["target"],
            higher=looks[0]["direction"] == "max",
        )
        value = INF if first is None else float(looks[first][cost])
        found.setdefault((submission, workload), []).append(value)
    return {key: profiles.median(values) for key, values in found.items()}


@pytest.mark.parametrize(
    ("cost", "name"), [("submission_sec", "wallclock"), ("step", "steps")], ids=["seconds", "steps"]
)
def test_algoperfs_times_profile_and_score_are_as_published(published, cost, name):
    found = times_to_target(published, cost)
    table = csv.read_csv(published / f"time_to_target_{name}.csv").to_pylist()
    workloads = [column for column in table[0] if column != "submission"]
    assert len(table) == 16
    assert len(workloads) == 9
    for row in table:
        for workload in workloads:
            # Empty: this submission has no evaluation of that workload.
            wanted = row[workload]
            have = found.get((row["submission"], workload))
            if wanted is None or math.isnan(wanted):
                assert have is None
            else:
                assert have == pytest.approx(wanted, rel=1e-9), (row["submission"], workload)

    names = [row["submission"] for row in table]
    costs = [[found.get((who, workload), INF) for workload in workloads] for who in names]
    scores = dict(zip(names, profiles.score(costs), strict=True))
    leaderboard = csv.read_csv(published / "leaderboard.csv").to_pylist()
    assert {row["submission"] for row in leaderboard} == set(names)
    for row in leaderboard:
        assert scores[row["submission"]] == pytest.approx(row[f"score_by_{name}"], abs=1e-6)
