"""Which way to compute is taken, by rounds whose answers are worked out by hand."""

import pytest

from bench.planning.speed.choice import Row, Way, chosen, fastest, is_faster, ratios

PLAIN = Way(threads=1)
LAST = Way(threads=1, settings=(("channels_last", True),))
BOTH = Way(threads=1, settings=(("channels_last", True), ("compiled", True)))
TWO = Way(threads=2)
TWO_LAST = Way(threads=2, settings=(("channels_last", True),))
A, B = ("data", "a"), ("data", "b")


def test_a_ratio_is_how_many_times_faster():
    assert ratios([2.0, 3.0], [1.0, 2.0]) == [2.0, 1.5]


@pytest.mark.parametrize(
    ("other", "faster"),
    [
        ([1.0, 1.0, 1.0], True),  # 1.05 each
        ([0.2, 0.2, 1.001], False),  # 1.049 in one round
        ([0.2, 0.2, 2.0], False),
    ],
)
def test_faster_is_by_a_twentieth_in_every_round(other, faster):
    assert is_faster([1.05, 1.05, 1.05], other) is faster


def test_the_fastest_is_that_of_the_median_among_those_that_are_faster_in_every_round():
    rounds = {PLAIN: [1.0, 1.0, 1.0], LAST: [0.8, 0.8, 0.8], BOTH: [0.5, 0.5, 0.96]}
    assert fastest(PLAIN, rounds, rounds) == LAST
    rounds[BOTH] = [0.7, 0.7, 0.95]
    assert fastest(PLAIN, rounds, rounds) == BOTH
    assert fastest(PLAIN, {PLAIN: [1.0], LAST: [0.99]}, [PLAIN, LAST]) == PLAIN


def test_each_model_has_its_own_settings_and_all_have_the_same_threads():
    measured = {
        A: {PLAIN: [1.0] * 3, LAST: [0.5] * 3, TWO: [0.9] * 3, TWO_LAST: [0.4] * 3},
        B: {PLAIN: [1.0] * 3, LAST: [2.0] * 3, TWO: [1.2] * 3, TWO_LAST: [1.3] * 3},
    }
    # One thread: 3 x 0.5 + 1.0 = 2.5; two: 3 x 0.4 + 1.2 = 2.4, faster by 1.042 alone.
    assert chosen(measured, {A: 3, B: 1}, 1) == {A: LAST, B: PLAIN}
    # 10 x 0.5 + 1.0 = 6.0 against 10 x 0.4 + 1.2 = 5.2: by 1.15.
    assert chosen(measured, {A: 10, B: 1}, 1) == {A: TWO_LAST, B: TWO}


def test_threads_win_in_every_round_or_not_at_all():
    measured = {A: {PLAIN: [1.0, 1.0, 1.0], TWO: [0.5, 0.5, 0.97]}}
    assert chosen(measured, {A: 1}, 1) == {A: PLAIN}


def test_threads_that_could_not_be_measured_for_one_model_are_not_taken():
    measured = {A: {PLAIN: [1.0], TWO: [0.1]}, B: {PLAIN: [1.0]}}
    assert chosen(measured, {A: 1, B: 1}, 1) == {A: PLAIN, B: PLAIN}


def test_a_row_says_its_ratio_and_range_or_its_reason():
    row = Row(dataset="d", model="m", factor="compiled", value="yes", ratios=(1.1, 1.3, 1.2))
    assert row.said() == "1.20 (1.10 to 1.30)"
    failed = Row(
        dataset="d", model="m", factor="compiled", value="yes", ratios=None, reason="no compiler"
    )
    assert failed.said() == "no compiler"
    assert failed.columns()["ratios"] is None
