"""A run with twice the budget beside it: what is trained, and what the report says of the two."""

import pyarrow.compute as pc
import pytest

from bench import api
from bench.core.references import StudyError
from results.report.sections.budgets import budgets
from results.run_folder import made_of
from results.tables.store import read

STUDY = """
name: small
data: [{{store: {store}, name: pictures, epochs: 4}}]
models: [plain_cnn]
optimizers: [sgd, adam]
losses: [ce]
seeds: [3, 4]
folds: 2
epochs: 7
threads: 1
device: cpu
loader: torch
"""


@pytest.fixture
def study(small_store, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "small.yaml"
    file.write_text(STUDY.format(store=small_store("classification", 2).path))
    return file


@pytest.mark.slow
def test_the_first_seed_is_trained_with_twice_the_budget_on_the_same_folds(study):
    ended = api.run(study, doubled=True, lanes=1)
    once, twice = (read(folder, "trials") for folder in (ended.folder, ended.folder / "doubled"))
    assert once.num_rows == 2 * 2 * 2
    assert twice.num_rows == 2 * 2
    assert set(twice["seed"].to_pylist()) == {3}
    assert set(once["epochs_run"].to_pylist()) == {4}
    assert set(twice["epochs_run"].to_pylist()) == {8}
    assert not set(once["trial_id"].to_pylist()) & set(twice["trial_id"].to_pylist())
    assert (ended.folder / "folds.parquet").read_bytes() == (
        ended.folder / "doubled" / "folds.parquet"
    ).read_bytes()
    # The score at twice the budget, by hand: the best look of each fold, their mean.
    by_hand = {}
    looks = read(ended.folder / "doubled", "epochs")
    for optimizer in ("sgd", "adam"):
        own = twice.filter(pc.equal(twice["optimizer"], optimizer))["trial_id"].to_pylist()
        best = [
            max(v for v in looks.filter(pc.equal(looks["trial_id"], t))["val_score"].to_pylist())
            for t in own
        ]
        by_hand[optimizer] = sum(best) / 2

    def section(run):
        found = run.verdict["datasets"][0]
        short = {row["name"]: row["name"] for row in found["combinations"]}
        return budgets(run, run.contests[0], found, short)

    found = made_of(ended.folder, section)
    assert found["parts"] == ["a quarter", "half", "the whole", "twice"]
    for line in found["lines"]:
        optimizer = next(o for o in by_hand if f" {o} " in f" {line['name']} ")
        assert line["cells"][-1]["score"] == pytest.approx(by_hand[optimizer])
    page = (ended.folder / "report.html").read_text()
    assert "rank at twice" in page
    # Asked for again, nothing is left to do.
    again = api.run(study, doubled=True, lanes=1)
    assert again.progress.reused == 4


def test_a_tuned_study_is_not_doubled(study):
    study.write_text(study.read_text() + "tuning: {points: 2}\n")
    with pytest.raises(StudyError, match="medopt tune"):
        api.run(study, doubled=True)
