"""Scores on degraded test images stand beside those on the images as they are."""

import pytest

from results.report.robustness import worse
from results.report.write import write_report
from results.run_folder import Recorded

DEGRADE = {
    "degrade": [{"name": "blur", "params": {}}, {"name": "noise", "params": {"deviation": 2}}]
}

SMALL = {"optimizers": ("adamw", "sgd"), "losses": ("ce", "focal"), "folds": 3}


@pytest.fixture
def degraded(make_run):
    """Return a run whose trials were tested on two degradations, each a stated step lower."""
    return make_run(**SMALL, study=DEGRADE, degraded={"blur": 0.1, "noise(deviation=2)": 0.2})


def test_each_combination_with_its_score_on_each_degradation(degraded):
    run = Recorded(degraded)
    for contest in run.contests:
        short = {c.name: c.name for c in contest.combinations}
        found = worse(run, contest.metric, contest.judged, short)
        assert found["names"] == ["blur", "noise(deviation=2)"]
        assert len(found["lines"]) == len(contest.judged)
        for line in found["lines"]:
            blurred, noisy = line["scores"]
            assert line["plain"] - blurred == pytest.approx(0.1)
            assert line["plain"] - noisy == pytest.approx(0.2)


def test_the_page_has_the_table_where_something_was_degraded(degraded, make_run):
    page = write_report(degraded).page.read_text(encoding="utf-8")
    assert "On degraded images" in page
    assert "noise(deviation=2)" in page
    plain = write_report(make_run("plain", **SMALL)).page.read_text(encoding="utf-8")
    assert "On degraded images" not in plain
