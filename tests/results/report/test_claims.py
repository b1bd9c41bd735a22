"""The page says each claim, each axis and what would decide, and names are never markup."""

import json

import pytest

from results.report.sections.bars import bars
from results.report.write import write_report

ONE = (("lung-nodules", "classification"),)


def test_the_page_has_every_claim_axis_and_option(make_run):
    run = make_run(datasets=ONE, spread=0, noise=0.04)
    page = " ".join(write_report(run).page.read_text().replace("&#39;", "'").split())
    (found,) = json.loads((run / "verdict.json").read_text())["datasets"]
    assert [c["of"] for c in found["claims"]] == ["procedure", "models", "optimizer", "loss"]
    for claim in found["claims"]:
        assert claim["sentence"] in page
    for told in (*found["interactions"], *found["second"], found["next"]):
        assert told["sentence"] in page
    for margin in found["margins"]:
        assert f"<th>{margin['axis']}</th>" in page
        assert all(f'<td class="axis">{level["name"]}</td>' in page for level in margin["levels"])
    for option in found["next"]["options"]:
        assert f"<td>{option['number']} {option['what'][:-1]}" in page
    assert found["errors"]["reason"] in page


def test_a_bar_is_to_scale_and_one_far_out_is_cut():
    """By hand: reaches 1, 1 and 9 to the left, typical 1, so the scale is -3 to 1."""
    rows = [
        {"advantage": {"estimate": 0.0, "low": -1.0, "high": 1.0}, "group": True},
        {"advantage": {"estimate": -1.0, "low": -1.0, "high": 0.0}, "group": True},
        {"advantage": {"estimate": -5.0, "low": -9.0, "high": 0.0}, "group": False},
        {"advantage": None, "group": False},
    ]
    first, second, third, none = bars(rows, grouped="group")
    assert first["bar"] == {"low": 50, "width": 50, "point": 75, "zero": 75, "cut": False}
    assert second["bar"]["low"] == pytest.approx(50)
    assert third["bar"] == {"low": 0, "width": 75, "point": 0, "zero": 75, "cut": True}
    assert third["said"] == "at most 9.000 behind"
    assert none == {"bar": None, "said": ""}


def test_an_interval_that_reads_zero_has_no_length():
    """By hand: reaches of 0.0004 on a scale of 0.01 to either side, and of none at all."""
    for reach, width in ((0.0004, 4), (0.0, 0)):
        rows = [{"advantage": {"estimate": 0.0, "low": -reach, "high": reach}, "group": True}] * 2
        for row in bars(rows, grouped="group"):
            assert row["bar"]["width"] == pytest.approx(width)
            assert row["bar"]["zero"] == row["bar"]["point"] == 50
