"""Races: the first seed runs for all, one drop is written down, and only the rest goes on."""

import re
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from bench.core.references import StudyError
from bench.execution.phases.race import first_round, raced
from bench.execution.provenance import footer
from bench.execution.trial_queue import Progress
from bench.planning.plan import Plan, resolve, save
from bench.study.schema import Study, load_study, with_race
from bench.study.trial import trial_columns
from results.report.write import leaderboard, load_verdicts, write_report
from results.tables.schema import FINAL_STATUSES
from results.tables.store import finished, read, write_trial

# A score that the others are within noise of, and one that is far behind.
SCORES = {"sgd": 0.80, "adam": 0.805, "adamw": 0.80, "rmsprop": 0.50}

STUDY = """
name: small
data: [{store}]
models: [plain_cnn]
optimizers: [sgd, adam, adamw, rmsprop]
losses: [ce]
seeds: [{seeds}]
folds: 4
threads: 1
device: cpu
loader: torch
"""


@pytest.fixture
def plan(small_store, tmp_path) -> Callable[..., Plan]:
    """Return a maker of plans of raced studies."""

    def make(seeds: str = "7, 8, 9") -> Plan:
        path = tmp_path / "small.yaml"
        store = small_store("classification", 2).path
        path.write_text(STUDY.format(store=store, seeds=seeds))
        asked, base = load_study(path)
        made = resolve(with_race(asked), base, tmp_path / "run")
        save(made)
        return made

    return make


class Runner:
    """Runs the trials of a plan by writing down a score, and notes which ones it ran."""

    def __init__(self) -> None:
        self.ran: list[tuple[str, int, int]] = []

    def __call__(self, plan: Plan, changed: Callable[[Progress], None]) -> Progress:
        done = finished(plan.folder)
        for trial in plan.trials:
            if done.get(trial.trial_id) in FINAL_STATUSES:
                continue
            optimizer = trial.choices["optimizer"].name
            self.ran.append((optimizer, trial.seed, trial.fold))
            noise = np.random.default_rng(
                [trial.seed, trial.fold, list(SCORES).index(optimizer)]
            ).normal(scale=0.01)
            row = {
                **trial_columns(trial),
                "study": plan.study.name,
                "status": "ok",
                "test_score": SCORES[optimizer] + noise,
                "val_score": SCORES[optimizer],
                "n_train_cases": 300,
                "n_test_cases": 100,
                "finished_at": datetime(2026, 1, 2, tzinfo=UTC),
            }
            write_trial(
                plan.folder, trial=row, metrics=[], epochs=[], cases=[], footer=footer(plan)
            )
        total = len(plan.trials)
        progress = Progress(
            total=total,
            done=total,
            reused=len(done),
            statuses={},
            running=(),
            seconds=1.0,
            seconds_left=None,
        )
        changed(progress)
        return progress


def statuses(folder: Path) -> dict[str, dict[str, int]]:
    found: dict[str, dict[str, int]] = {}
    for row in read(folder, "trials").to_pylist():
        mine = found.setdefault(row["optimizer"], {})
        mine[row["status"]] = mine.get(row["status"], 0) + 1
    return found


def test_the_hopeless_is_dropped_after_the_first_seed_and_the_rest_goes_on(plan):
    made, runner, heard = plan(), Runner(), []
    raced(made, runner, heard.append)
    assert statuses(made.folder) == {
        **{name: {"ok": 12} for name in ("sgd", "adam", "adamw")},
        "rmsprop": {"ok": 4, "dropped": 8},
    }
    # The first seed of all in every fold comes first.
    assert {seed for _, seed, _ in runner.ran[:16]} == {7}
    assert len(runner.ran) == 16 + 3 * 8
    # To those who watch, the first round is a part of the whole.
    assert {progress.total for progress in heard} == {48}
    dropped = [r for r in read(made.folder, "trials").to_pylist() if r["status"] == "dropped"]
    assert {row["reason"] for row in dropped} == {
        "behind the best after the first seed (race at level 1 %)"
    }
    # Asked for again, nothing is left to do.
    again = Runner()
    raced(made, again, heard.append)
    assert again.ran == []


def test_the_verdict_of_a_race_judges_those_left_by_what_the_drop_left_of_the_level(plan):
    made = plan()
    raced(made, Runner(), lambda _progress: None)
    (found,) = load_verdicts(made.folder)["datasets"]
    states = {row["optimizer"]: row["state"] for row in found["combinations"]}
    assert states == {"sgd": "judged", "adam": "judged", "adamw": "judged", "rmsprop": "dropped"}
    assert found["state"] in ("tie", "undecided")
    assert (
        "The race dropped 1 of 4 combinations after the first seed, at level 1 %; the verdict on "
        "those left has level 4 %."
    ) in found["warnings"]
    # Each interval, wherever it is shown, has that level.
    assert found["alpha"] == pytest.approx(0.04)
    write_report(made.folder)
    console = Console(width=200, record=True)
    console.print(leaderboard(load_verdicts(made.folder)))
    shown = {
        "page": (made.folder / "report.html").read_text(encoding="utf-8"),
        "terminal": console.export_text(),
    }
    for where, text in shown.items():
        levels = set(re.findall(r"(\d+(?:\.\d+)?) % (?:interval|confidence)", text))
        # The page's protocol says what the study asked for, and that the race took of it.
        assert levels - ({"95"} if where == "page" else set()) == {"96"}, where
    # The papers' claims are a family of their own.
    assert shown["page"].count("95 % interval") == shown["page"].count("<th>claim</th>") == 1


def test_a_race_needs_something_after_the_first_seed(plan):
    made = plan(seeds="7")
    with pytest.raises(StudyError, match="one seed and one repeat"):
        raced(made, Runner(), lambda _progress: None)
    assert len(first_round(made).trials) == len(made.trials)


def test_a_raced_run_stays_one(plan, tmp_path):
    first = plan()
    asked, base = load_study(tmp_path / "small.yaml")
    assert asked.race is None
    assert resolve(asked, base, first.folder).study.race == first.study.race == 0.01
    with pytest.raises(StudyError, match=r"race: this run was made with 0\.01"):
        resolve(asked.model_copy(update={"race": 0.02}), base, first.folder)


def test_a_run_that_was_not_raced_says_what_asks_for_a_race(plan, tmp_path):
    plan()
    asked, base = load_study(tmp_path / "small.yaml")
    first = resolve(asked, base, tmp_path / "unraced")
    save(first)
    said = r"race: this run was made with off, but the study \(or --race\) now says 0\.02"
    with pytest.raises(StudyError, match=said):
        resolve(asked.model_copy(update={"race": 0.02}), base, first.folder)
    said = "batch_size: this run was made with automatic, but the study now says 4"
    with pytest.raises(StudyError, match=said):
        resolve(asked.model_copy(update={"batch_size": 4}), base, first.folder)


def test_the_drop_leaves_something_of_alpha():
    study = Study(name="a", data=["s"], models=["plain_cnn"], optimizers=["sgd"], losses=["ce"])
    with pytest.raises(StudyError, match=r"race: the drop takes 0.01 of alpha, which is 0.01"):
        with_race(study.model_copy(update={"alpha": 0.01}))
