"""`speed: auto` of a study: fixed before the first trial, in the ids, and never asked again."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
import yaml
from typer.testing import CliRunner

from bench import api
from bench.cli import app
from bench.core.references import StudyError
from bench.planning.cost.timed import Timed
from bench.planning.plan import resolve, save
from bench.planning.speed import study as speed_study
from bench.planning.speed.search import ROUNDS
from bench.study.schema import load_study, parse_study, with_speeds, with_twice_the_budget
from bench.training.evaluate import Evaluator
from tests.bench.planning.speed.test_search import Made

# plain_cnn is faster with its channels innermost, vgg_small is not.
GAINS = {("plain_cnn", "channels_last"): 1.5, ("vgg_small", "channels_last"): 0.8}


class Machine(Made):
    """Stands for this machine; `made` are those of a test."""

    made: list["Machine"] = []  # noqa: RUF012  # one list for all, emptied by the fixture

    def __init__(self, trials, _sets, _base, *, device, lanes):
        super().__init__(self._sec)
        self.trials, self.lanes = trials, lanes
        self.made.append(self)

    @staticmethod
    def _sec(kind, way, _part):
        gains = [GAINS.get((kind[1], key), 1.0) for key, _ in way.settings]
        return {1: 1.0, 2: 1.1}.get(way.threads, 2.0) / np.prod(gains)


@pytest.fixture
def plan_of(small_store, tmp_path, monkeypatch):
    monkeypatch.setattr(speed_study, "Here", Machine)
    monkeypatch.setattr("bench.training.room.usable_memory", lambda: 2**40)
    monkeypatch.setattr(speed_study, "usable_memory", lambda: 2**40)
    Machine.made.clear()
    path = small_store("classification", 2).path

    def make(run="run", lanes=None, cores=2, data=None, **changes):
        lines = {
            "name": "small",
            "data": [data or str(path)],
            "models": ["plain_cnn", "vgg_small"],
            "optimizers": ["sgd", "adam"],
            "losses": ["ce"],
            "folds": 3,
            "epochs": 1,
            "loader": "torch",
            "device": "cpu",
            **changes,
        }
        study = parse_study(yaml.safe_dump(lines), "study.yaml")
        return resolve(study, tmp_path, tmp_path / run, lanes=lanes, cores=cores)

    return make


def settings_of(plan):
    return {
        trial.choices["model"].label: (trial.channels_last, trial.compiled, trial.threads)
        for trial in plan.trials
    }


def test_each_model_has_what_is_fastest_for_it_and_for_every_optimizer(plan_of):
    plan = plan_of(speed="auto")
    assert settings_of(plan) == {"plain_cnn": (True, False, 1), "vgg_small": (False, False, 1)}
    by_model = {}
    for trial in plan.trials:
        by_model.setdefault(trial.choices["model"].label, set()).add(trial.channels_last)
    assert by_model == {"plain_cnn": {True}, "vgg_small": {False}}
    (machine,) = Machine.made
    assert machine.lanes == {1: 2, 2: 1}
    assert {row.factor for row in plan.found.rows} == {
        "channels_last",
        "compiled",
        "threads",
        "together",
    }


def test_a_setting_enters_the_id_as_that_of_the_study_does(plan_of):
    auto = {t.trial_id for t in plan_of(speed="auto").trials}
    last = plan_of(channels_last=True, models=["plain_cnn"]).trials
    plain = plan_of(models=["vgg_small"]).trials
    assert auto == {t.trial_id for t in (*last, *plain)}


def test_the_run_says_it_and_is_never_asked_again(plan_of):
    first = plan_of(speed="auto")
    save(first)
    content = yaml.safe_load((first.folder / "study.yaml").read_text())
    assert content["data"][0]["speed"] == {"plain_cnn": {"channels_last": True}, "vgg_small": {}}
    assert content["threads"] == 1
    Machine.made.clear()
    # Another host, with other cores.
    again = plan_of(speed="auto", cores=16)
    assert {t.trial_id for t in again.trials} == {t.trial_id for t in first.trials}
    assert not Machine.made
    assert again.found is None
    # The file of the run is a study too, and pins what was found.
    study, _ = load_study(first.folder / "study.yaml")
    copied = resolve(study, first.folder, first.folder.parent / "copy")
    assert {t.trial_id for t in copied.trials} == {t.trial_id for t in first.trials}
    assert not Machine.made


def test_a_model_that_comes_later_is_measured_alone(plan_of):
    first = plan_of(speed="auto", models=["vgg_small"])
    save(first)
    Machine.made.clear()
    grown = plan_of(speed="auto")
    (machine,) = Machine.made
    assert {model for _, model in machine.trials} == {"plain_cnn"}
    assert {t.trial_id for t in first.trials} < {t.trial_id for t in grown.trials}
    save(grown)
    # Less is asked for: what was found of the others stands in the run.
    less = plan_of(speed="auto", models=["plain_cnn"])
    save(less)
    content = yaml.safe_load((first.folder / "study.yaml").read_text())
    assert content["data"][0]["speed"] == {"plain_cnn": {"channels_last": True}, "vgg_small": {}}
    # Another protocol than the run's is another run.
    store = content["data"][0]["store"]
    with pytest.raises(StudyError, match=r"settings of .* have changed since this run was made"):
        plan_of(
            speed="auto",
            data={
                "store": str((first.folder / store).resolve()),
                "speed": {"plain_cnn": {"compiled": True}},
            },
        )


def test_what_the_study_says_itself_is_not_measured(plan_of):
    plan = plan_of(speed="auto", channels_last=False, threads=1)
    assert settings_of(plan) == {"plain_cnn": (False, False, 1), "vgg_small": (False, False, 1)}
    assert {row.factor for row in plan.found.rows} == {"compiled"}
    assert not any(way.threads != 1 for _, way, _, _ in Machine.made[0].asked)


def test_lanes_that_are_asked_for_leave_threads_as_they_are(plan_of):
    plan = plan_of(speed="auto", lanes=3, cores=12)
    assert settings_of(plan)["vgg_small"] == (False, False, 4)
    assert Machine.made[0].lanes == {4: 3}


def test_without_it_nothing_is_measured_and_ids_stand(plan_of):
    plan = plan_of()
    assert plan.found is None
    assert not Machine.made
    assert plan.study.data[0].speed is None


def test_precisions_are_tried_where_the_study_lists_them(plan_of, monkeypatch):
    monkeypatch.setitem(GAINS, ("vgg_small", "precision"), 1.4)
    assert all(
        key != "precision"
        for _ in [plan_of(speed="auto")]
        for _, way, _, _ in Machine.made[0].asked
        for key, _ in way.settings
    )
    plan = plan_of(speed={"precision": ["float32", "bfloat16", "tf32"]}, run="other")
    found = {t.choices["model"].label: t.precision for t in plan.trials}
    assert found == {"plain_cnn": "float32", "vgg_small": "bfloat16"}
    said = {row.value: row.said() for row in plan.found.rows if row.factor == "precision"}
    assert "number format of NVIDIA's GPUs" in said["tf32"]


def test_a_setting_that_one_optimizer_cannot_have_is_taken_for_none(plan_of, monkeypatch):
    monkeypatch.setitem(GAINS, ("plain_cnn", "compiled"), 3.0)
    plan = plan_of(speed="auto", optimizers=["adam", "sophia"])
    assert not any(trial.compiled for trial in plan.trials)
    assert not plan.skips
    said = {row.said() for row in plan.found.rows if row.factor == "compiled"}
    assert said == {"optimizer sophia needs second derivatives, which torch.compile lacks"}
    assert all(
        trial.compiled
        for trial in plan_of(speed="auto", run="two").trials
        if trial.choices["model"].label == "plain_cnn"
    )


def test_twice_the_budget_is_computed_the_same_way(plan_of, tmp_path):
    plan = plan_of(speed="auto")
    asked = parse_study(
        yaml.safe_dump(
            {
                "name": "small",
                "data": [plan.study.data[0].store],
                "models": ["plain_cnn"],
                "optimizers": ["sgd"],
                "losses": ["ce"],
                "speed": "auto",
            }
        ),
        "study.yaml",
    )
    for study in (with_speeds(asked, plan.study), with_twice_the_budget(asked, plan.study)):
        assert study.data[0].model_dump()["speed"] == {"plain_cnn": {"channels_last": True}}


def test_memory_that_holds_no_more_processes_is_told(plan_of, monkeypatch):
    monkeypatch.setattr(speed_study, "usable_memory", lambda: int(3.4 * 2**30))
    plan = plan_of(speed="auto")
    assert Machine.made[0].lanes == {1: 2}
    said = {row.said() for row in plan.found.rows if row.factor == "threads"}
    assert said == {"not measured: memory has no room for its processes beside the others"}


def test_a_gpu_is_measured_where_it_is(plan_of, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(StudyError, match=r"^device: the study asks for cuda"):
        plan_of(speed="auto", device="cuda")


@pytest.mark.parametrize("count", [1, 3, 50])
def test_windows_at_once_change_the_speed_and_not_the_score(make_trial, count, monkeypatch):
    trial, data, base = make_trial("segmentation", patch=(8, 8))
    sizes = []
    before = Evaluator.outputs

    def counted(self, image):
        sizes.append(len(image))
        return before(self, image)

    monkeypatch.setattr(Evaluator, "outputs", counted)
    scores = []
    for at_once in (None, count):
        sizes.clear()
        timed = Timed(replace(trial, windows_at_once=at_once), data, base, torch.device("cpu"))
        scores.append(timed._evaluator.score(data.split(0, 0).inner, final=False))
    # Images are of few sizes, and windows of all images are of one: only the last are fewer.
    assert all(size == count for size in sizes[:-1])
    assert sizes[-1] <= count
    assert scores[0].value == pytest.approx(scores[1].value, abs=1e-6)
    assert scores[0].loss == pytest.approx(scores[1].loss, rel=1e-5)


@pytest.fixture
def asked(small_store, tmp_path, monkeypatch):
    """Return the file of a study with `speed: auto`, on a machine that is made up."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(speed_study, "Here", Machine)
    path = tmp_path / "small.yaml"
    path.write_text(
        f"name: small\ndata: [{small_store('classification', 2).path}]\nmodels: [plain_cnn]\n"
        "optimizers: [adam]\nlosses: [ce]\nfolds: 2\nepochs: 1\nthreads: 1\ndevice: cpu\n"
        "speed: auto\n"
    )
    return path


def test_a_plan_shows_the_table(asked):
    told = CliRunner().invoke(app, ["plan", str(asked), "--json"])
    rows = {row["factor"]: row for row in json.loads(told.stdout)["speed"]}
    assert rows["channels_last"]["ratios"] == pytest.approx([1.5] * ROUNDS)
    assert (rows["channels_last"]["taken"], rows["compiled"]["taken"]) == (True, False)
    said = " ".join(CliRunner().invoke(app, ["plan", str(asked)]).stdout.split())
    assert "times faster" in said
    assert "1.50 (1.50 to 1.50)" in said


@pytest.mark.slow
def test_a_run_says_and_logs_what_was_measured_and_trains_so(asked):
    said = []
    ended = api.run(asked, lanes=1, say=said.append)
    line = "speed, small-classification, plain_cnn: channels_last yes: 1.50 (1.50 to 1.50), taken"
    assert said[0].startswith("speed: the fastest settings of each model")
    assert f"{line}." in said
    assert line in (ended.folder / "log.txt").read_text()
    assert ended.progress.statuses == {"ok": 2}
    content = yaml.safe_load((ended.folder / "study.yaml").read_text())
    assert content["data"][0]["speed"] == {"plain_cnn": {"channels_last": True}}
    before = len(Machine.made)
    assert api.run(asked, lanes=1).progress.reused == 2
    assert len(Machine.made) == before
