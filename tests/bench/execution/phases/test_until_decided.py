"""Runs until they are decided: repeats are added while they can decide, and no longer."""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from bench.core.references import StudyError
from bench.execution.phases.until_decided import continued, to_decide, until_decided
from bench.execution.provenance import footer
from bench.execution.trial_queue import Progress
from bench.planning.plan import Plan, resolve, save
from bench.study.schema import Study, load_study, with_until_decided
from bench.study.trial import trial_columns
from results.report.write import load_verdicts
from results.tables.schema import FINAL_STATUSES
from results.tables.store import finished, write_trial

STUDY = """
name: small
data: [{store}]
models: [plain_cnn]
optimizers: [sgd, adam]
losses: [ce]
folds: 5
threads: 1
device: cpu
loader: torch
{more}
"""


@dataclass
class Bench:
    """A study, its run folder, and what its trials score: a mean and a spread an optimizer."""

    file: Path
    folder: Path
    means: dict[str, float]
    spread: float
    ran: list[tuple[int, str]] = field(default_factory=list)
    said: list[str] = field(default_factory=list)

    def asked(self) -> tuple[Study, Path]:
        study, base = load_study(self.file)
        return continued(with_until_decided(study), self.folder), base

    def planned(self, study: Study, base: Path) -> Plan:
        made = resolve(study, base, self.folder)
        save(made)
        return made

    def run(self) -> Progress:
        study, base = self.asked()

        def grown(repeats: int) -> Plan:
            return self.planned(study.model_copy(update={"repeats": repeats}), base)

        return until_decided(self.planned(study, base), self.train, grown, self.said.append)

    def train(self, plan: Plan) -> Progress:
        done = finished(plan.folder)
        for trial in plan.trials:
            if done.get(trial.trial_id) in FINAL_STATUSES:
                continue
            optimizer = trial.choices["optimizer"].name
            self.ran.append((trial.repeat, optimizer))
            noise = np.random.default_rng([trial.repeat, trial.fold, len(optimizer)]).normal()
            row = {
                **trial_columns(trial),
                "study": plan.study.name,
                "status": "ok",
                "test_score": self.means[optimizer] + self.spread * noise,
                "val_score": 0.8,
                "n_train_cases": 240,
                "n_test_cases": 60,
                "train_sec": 1.0,
                "wall_sec": 1.0,
                "finished_at": datetime(2026, 1, 2, tzinfo=UTC),
            }
            about = footer(plan)
            write_trial(plan.folder, trial=row, metrics=[], epochs=[], cases=[], footer=about)
        total = len(plan.trials)
        return Progress(
            total=total,
            done=total,
            reused=len(done),
            statuses={},
            running=(),
            seconds=1.0,
            seconds_left=None,
        )


@pytest.fixture
def bench(small_store, tmp_path) -> Callable[..., Bench]:
    """Return a maker of studies whose two optimizers score as the test says."""

    def make(adam: float, spread: float, more: str = "") -> Bench:
        path = tmp_path / "small.yaml"
        store = small_store("classification", 2).path
        path.write_text(STUDY.format(store=store, more=more))
        means = {"sgd": 0.8, "adam": adam}
        return Bench(file=path, folder=tmp_path / "run", means=means, spread=spread)

    return make


def test_a_difference_that_one_look_shows_ends_it(bench):
    here = bench(adam=0.9, spread=0.004)
    here.run()
    assert {repeat for repeat, _ in here.ran} == {0}
    assert load_verdicts(here.folder)["datasets"][0]["state"] == "better"
    assert here.said == []


def test_repeats_are_added_until_the_difference_shows_and_none_runs_twice(bench):
    here = bench(adam=0.83, spread=0.012)
    here.run()
    repeats = {repeat for repeat, _ in here.ran}
    assert repeats == set(range(len(repeats)))
    assert len(repeats) > 1
    assert len(here.ran) == len(repeats) * 5 * 2
    assert len(here.said) == len(repeats) - 1
    assert here.said[0].startswith("look 1 of at most 3, at level 1.667 %: ")
    # The run's study says how many repeats it came to, and that is what it was asked with before.
    assert here.asked()[0].repeats == len(repeats)
    again = len(here.ran)
    here.run()
    assert len(here.ran) == again
    assert load_verdicts(here.folder)["datasets"][0]["state"] == "better"


def test_nothing_is_added_where_more_repeats_would_not_do(bench):
    # So wide a scatter and so small a lead take more repeats than three looks have.
    here = bench(adam=0.801, spread=0.1)
    here.run()
    assert {repeat for repeat, _ in here.ran} == {0}
    found = load_verdicts(here.folder)["datasets"]
    assert found[0]["state"] == "undecided"
    assert to_decide(found, 3) == []
    option = next(each for each in found[0]["next"]["options"] if each["what"] == "repeats")
    lead = found[0]["lead"]["estimate"]
    why = (
        "o repeat is added: even 10 repeats would not decide the lead (expected half-width of its "
        f"interval {option['half_width']:.3f}, lead {lead:.3f})."
    )
    name = found[0]["dataset"]
    assert here.said == [f"look 1 of at most 3, at level 1.667 %: {name}: n{why}"]
    assert found[0]["warnings"][-1] == f"N{why}"


def test_a_run_that_is_undecided_after_its_last_look_says_so(bench):
    here = bench(adam=0.801, spread=0.1, more="repeats: 2")
    study, base = here.asked()
    grown = study.model_copy(update={"repeats": 6})
    here.train(here.planned(grown, base))
    here.run()
    assert len(here.said) == 1
    assert here.said[0].startswith("look 3 of at most 3, at level 1.667 %: ")
    assert here.said[0].endswith(": no repeat is added: this was the last of 3 looks.")


def test_saved_folds_stay_when_repeats_are_added(bench):
    here = bench(adam=0.83, spread=0.012)
    study, base = here.asked()
    first = here.planned(study, base).sets[0].splits
    more = here.planned(study.model_copy(update={"repeats": 2}), base).sets[0].splits
    assert len(more) == 2 * len(first)
    for before, now in zip(first, more, strict=False):
        np.testing.assert_array_equal(before.test, now.test)
        np.testing.assert_array_equal(before.inner, now.inner)


def test_each_look_has_a_third_of_the_level_and_the_verdict_says_so(bench):
    here = bench(adam=0.9, spread=0.004)
    here.run()
    found = load_verdicts(here.folder)["datasets"][0]
    assert "in at most 3 looks" in " ".join(found["warnings"])
    plain = bench(adam=0.9, spread=0.004)
    plain.folder = here.folder.with_name("plain")
    study, base = load_study(plain.file)
    plain.train(plain.planned(study, base))
    usual = load_verdicts(plain.folder)["datasets"][0]

    def half(found):
        return found["lead"]["high"] - found["lead"]["estimate"]

    # By folds alone: 4 degrees of freedom (scipy.stats.t.ppf: 4.0 at 0.05/3 two-sided, 2.78).
    assert half(found) / half(usual) == pytest.approx(3.9608 / 2.7764, rel=0.02)


def test_a_run_that_was_begun_without_cannot_be_looked_at_later(bench):
    here = bench(adam=0.83, spread=0.012)
    study, base = load_study(here.file)
    here.train(here.planned(study, base))
    with pytest.raises(
        StudyError,
        match=r"this run was made with off, but the study \(or --until-decided\) now says",
    ):
        here.run()


def test_repeats_do_not_grow_without_the_rule(bench):
    here = bench(adam=0.83, spread=0.012)
    study, base = load_study(here.file)
    here.planned(study, base)
    with pytest.raises(
        StudyError, match="repeats: this run was made with 1, but the study now says 2"
    ):
        here.planned(study.model_copy(update={"repeats": 2}), base)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ("until_decided: {looks: 4}", "until_decided.looks"),
        ("until_decided: {}\ntuning: {points: 5}", "until_decided: a tuned study"),
    ],
)
def test_what_cannot_look_is_refused_in_a_sentence(bench, more, said):
    here = bench(adam=0.83, spread=0.012, more=more)
    with pytest.raises(StudyError, match=said):
        load_study(here.file)


def test_the_repeats_of_each_look_are_those_of_the_study(bench):
    here = bench(adam=0.83, spread=0.012, more="repeats: 2")
    study, _ = here.asked()
    assert study.until_decided.step == 2
    here.run()
    assert len({repeat for repeat, _ in here.ran}) in (2, 4, 6)
    assert Study.model_validate(study.model_dump()) == study
