"""BOHB's model: its densities by scipy, its rung by hand, what it proposes, what a record tells."""

import numpy as np
import pytest
from scipy import stats

from bench.execution.phases.bohb import Tried, bandwidth, log_density, proposed
from bench.optimizers.spec import Space
from bench.planning.points import share_of, value_at

RUNGS = (10, 30, 90)


def test_the_density_of_one_setting_is_scipys():
    rng = np.random.default_rng(0)
    for _ in range(100):
        points = rng.random((int(rng.integers(3, 30)), 1))
        at = rng.random((7, 1))
        factor = bandwidth(points)[0] / points.std(ddof=1)
        kernel = stats.gaussian_kde(points[:, 0], bw_method=factor)
        np.testing.assert_allclose(log_density(points, at), kernel.logpdf(at[:, 0]), rtol=1e-6)


def test_the_density_of_several_settings_is_a_sum_of_products():
    rng = np.random.default_rng(1)
    points, at = rng.random((9, 3)), rng.random((5, 3))
    width = 1.06 * points.std(axis=0) * 9 ** (-1 / 7)
    expected = [
        np.mean([np.prod(stats.norm.pdf(place, point, width)) for point in points]) for place in at
    ]
    np.testing.assert_allclose(np.exp(log_density(points, at)), expected, rtol=1e-9)


def bowl(shares):
    """Return a score that is best at 0.7 of every setting's way."""
    return -float(((shares - 0.7) ** 2).sum())


def tried(points, score=bowl, spent=90):
    return [Tried(shares=p, looks=[(10, 0.0), (spent, score(p))]) for p in points]


def test_few_points_propose_nothing():
    """Of two settings a density takes three points, two more make the others."""
    rng = np.random.default_rng(2)
    points = rng.random((5, 2))
    assert proposed(tried(points[:4]), RUNGS, rng) is None
    assert proposed(tried(points), RUNGS, rng).shape == (2,)


def test_it_proposes_where_the_good_ones_lie():
    rng = np.random.default_rng(3)
    near, random = [], []
    for _ in range(60):
        points = rng.random((24, 2))
        found = proposed(tried(points), RUNGS, rng)
        assert ((found >= 0) & (found <= 1)).all()
        near.append(bowl(found))
        random.append(bowl(rng.random(2)))
    assert np.median(near) > np.median(random) / 4  # half as far away as a random point


def test_the_dearest_rung_that_knows_enough_decides():
    """At the first rung high shares look good, at the last low ones are."""
    rng = np.random.default_rng(4)
    points = rng.random((30, 1))

    def run(whole):
        return [
            Tried(
                shares=p,
                looks=[(10, p[0])] + ([(45, -p[0]), (90, -p[0])] if at < whole else []),
            )
            for at, p in enumerate(points)
        ]

    early = [proposed(run(3), RUNGS, np.random.default_rng(s))[0] for s in range(20)]
    late = [proposed(run(20), RUNGS, np.random.default_rng(s))[0] for s in range(20)]
    assert np.median(early) > 0.7
    assert np.median(late) < 0.3


def test_a_point_counts_at_a_rung_by_its_first_look_there():
    point = Tried(shares=np.zeros(1), looks=[(9, 0.1), (12, 0.2), (30, 0.3), (31, 0.9)])
    assert [point.at(rung) for rung in RUNGS] == [0.2, 0.3, None]


def test_points_that_diverged_repel():
    rng = np.random.default_rng(5)
    points = rng.random((20, 1))

    def score(point):
        return -np.inf if point[0] > 0.5 else 0.1 * rng.random()

    found = [proposed(tried(points, score), RUNGS, rng)[0] for _ in range(20)]
    assert max(found) < 0.6


SPACES = [Space(low=1e-5, high=0.1, log=True), Space(low=0.2, high=0.99, log=False)]


@pytest.mark.parametrize("space", SPACES)
def test_a_share_is_where_a_value_is(space):
    for share in np.random.default_rng(6).random(100):
        assert share_of(value_at(share, space), space) == pytest.approx(share, abs=1e-3)
    assert share_of(space.high * 10, space) == 1
    assert share_of(0.0, space) == 0
