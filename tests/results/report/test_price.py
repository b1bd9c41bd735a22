"""The price on the page: its table, its words, and the profiles of optimizers."""

import re

import numpy as np

from results.report.sections import price
from results.report.write import write_report
from results.run_folder import Recorded
from tests.golden.test_recorded import HERE
from tests.results.report.test_write import CLASSES, SMALL, assert_sound, page


def test_the_page_has_a_table_of_prices_and_two_profiles(make_run):
    found = page(make_run(**SMALL))
    assert_sound(found)
    assert found.words.count("Price to the target") == 2
    assert "How soon each optimizer is good enough" in found.words
    assert "score by sample-gradients score by seconds alone target reached" in found.words
    # Two data sets x two losses x three folds.
    assert "Performance profiles (Dolan and More 2002) over 12 problems" in found.words
    assert (
        len([a for _, a in found.tags if "Performance profiles of" in (a.get("aria-label") or "")])
        == 2
    )
    # Every look of a made-up run costs 320 sample-gradients at 210 a second.
    assert "4.76 ms" in found.words


def test_trials_side_by_side_have_no_price_and_the_page_says_so(make_run):
    found = page(make_run(datasets=CLASSES, **SMALL, columns={"shared_device": True})).words
    assert "No trial had its device to itself" in found
    assert "compare sample-gradients, or let `medopt price` measure" in found
    assert "score by raw seconds" in found
    assert "Seconds are raw, since not every combination ran alone" in found
    assert "cost of one alone" not in found


def test_one_optimizer_has_no_profile(make_run):
    found = page(make_run(datasets=CLASSES, optimizers=("adamw",), losses=("ce", "focal"))).words
    assert "How soon each optimizer" not in found
    assert "Price to the target" in found


def test_what_the_looks_say_is_what_the_trials_noted():
    """A run of the product, whose study had a target: both were counted while it trained."""
    run = Recorded(HERE / "recorded")
    checked = 0
    for priced in price.of_run(run):
        assert priced is not None
        noted = {
            row["trial_id"]: (row["sample_gradients_to_target"], row["sec_to_target"])
            for row in priced.contest.rows
            if row["status"] == "ok"
        }
        for trial, (samples, seconds) in noted.items():
            paid = priced.paid[trial]
            if samples is None:
                assert np.isinf([paid.sample_gradients, paid.seconds, paid.evaluations]).all()
            else:
                assert (paid.sample_gradients, paid.seconds) == (samples, seconds)
                checked += 1
    assert checked > 20


def test_the_most_that_a_figure_draws_are_the_best(make_run):
    names = ("adamw", "sgd", "lbfgs", "adam", "lion", "adan", "lamb", "muon")
    run = make_run(datasets=CLASSES, optimizers=names, losses=("ce",), folds=2)
    found = price.of_optimizers(price.of_run(Recorded(run)))
    assert found is not None
    assert [line["name"] for line in found["lines"][:6]] == [e["name"] for e in found["legend"]]
    scores = [line["samples"] for line in found["lines"]]
    assert scores == sorted(scores, reverse=True)
    assert len(scores) == 8
    text = write_report(run).page.read_text(encoding="utf-8")
    assert re.search(r"the best 6 of\s+8 are drawn", text)
