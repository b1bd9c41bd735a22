"""From a study to a run: what is fixed, what may grow, what is refused; the user's own parts."""

import json
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml

from bench.core.references import StudyError, load_reference
from bench.execution.local import run_here
from bench.execution.trial_queue import opened
from bench.planning import expand as expand_module
from bench.planning.plan import ends_early, resolve, save
from bench.study.schema import parse_study
from results.tables import store as results
from results.tables.rule import in_words


def study_text(store: Path, **changes: str) -> str:
    lines = {
        "name": "small",
        "data": f"[{store}]",
        "models": "[plain_cnn]",
        "optimizers": "[sgd, adam]",
        "losses": "[ce]",
        "folds": "3",
        "epochs": "1",
        "threads": "1",
        "loader": "torch",
        **changes,
    }
    return "\n".join(f"{key}: {value}" for key, value in lines.items())


def in_one_line(content) -> str:
    return yaml.safe_dump(content, default_flow_style=True, width=10**6).strip()


@pytest.fixture
def plan_of(small_store, tmp_path):
    path = small_store("classification", 2).path

    def make(run: str = "run", lanes: int | None = 1, cores: int | None = None, **changes: str):
        study = parse_study(study_text(path, **changes), "study.yaml")
        return resolve(study, tmp_path, tmp_path / run, lanes=lanes, cores=cores)

    return make


def test_trial_ids_are_stable_and_differ_where_the_result_may(plan_of):
    first = {t.trial_id: t for t in plan_of().trials}
    assert len(first) == 2 * 3
    assert set(first) == {t.trial_id for t in plan_of(run="elsewhere").trials}
    for key, value in {
        "epochs": "2",
        "threads": "2",
        "seeds": "[1]",
        "folds": "4",
        "augment": "{flip: false}",
        "patience": "3",
        "stop_on": "loss",
        "batch_size": "3",
    }.items():
        assert not set(first) & {t.trial_id for t in plan_of(**{key: value}).trials}, key


@pytest.mark.apart
def test_code_of_the_users_own_that_ends_its_process_does_not_end_the_plan(
    plan_of, tmp_path, monkeypatch
):
    (tmp_path / "leaving.py").write_text("import os\nos._exit(4)\n")
    with pytest.raises(StudyError, match=r"^losses: leaving.py:loss ended the process .*status 4"):
        plan_of(losses="[leaving.py:loss]")
    # Without code of the user's own there is no such process: it takes seconds to start.
    monkeypatch.setattr("bench.planning.rehearsal.Beside", pytest.fail)
    assert plan_of().trials


def test_the_loader_is_in_the_id_where_it_may_change_the_bits(plan_of):
    def ids(**changes):
        return {t.trial_id for t in plan_of(**changes).trials}

    assert ids() == ids(loader="monai")
    turned = {"augment": "{rotate: 10}"}
    assert ids(**turned) == ids(**turned, loader="dali")  # on a CPU it warps as ours does
    assert not ids(**turned) & ids(**turned, loader="monai")


def test_a_run_of_older_ids_is_told_before_anything_is_trained_again(plan_of, monkeypatch):
    plan = plan_of()
    save(plan)
    with opened(plan, shared_device=False) as queue:
        run_here(plan, queue, lambda _state: None)
    assert {t.trial_id for t in plan_of().trials} == set(results.finished(plan.folder))
    monkeypatch.setattr(expand_module, "NUMERICS", 99)
    with pytest.raises(
        StudyError, match=r"6 finished trial.*would be trained again.*another run folder"
    ):
        plan_of()


def test_what_does_not_decide_a_result_is_not_in_the_id(plan_of):
    ids = {t.trial_id for t in plan_of().trials}
    assert ids == {t.trial_id for t in plan_of(name="other", margin="0.2").trials}
    assert ids < {t.trial_id for t in plan_of(losses="[ce, focal]").trials}


def test_a_misfit_is_a_skip_with_its_reason(plan_of):
    plan = plan_of(models="[plain_cnn, unet]")
    assert {s.combination["model"] for s in plan.skips} == {"unet"}
    assert "segmentation" in plan.skips[0].reason
    assert {t.choices["model"].label for t in plan.trials} == {"plain_cnn"}
    with pytest.raises(StudyError, match="no combination"):
        plan_of(models="[unet]")


def test_automatic_settings_are_fixed_at_the_first_run(plan_of):
    first = plan_of(threads="null", lanes=2, cores=8)
    assert first.study.threads == 4
    save(first)
    again = plan_of(threads="null", lanes=1, cores=2)
    assert again.study.threads == 4
    assert {t.trial_id for t in again.trials} == {t.trial_id for t in first.trials}


@pytest.mark.parametrize(("free", "threads"), [(1000, 1), (6, 2), (0.1, 8)])
def test_a_trial_has_a_core_where_memory_holds_so_many(plan_of, monkeypatch, free, threads):
    """Of 8 cores; with 6 GiB free a process of 1.25 GiB at least fits 3 times (0.8 of them)."""
    monkeypatch.setattr("bench.training.room.usable_memory", lambda: int(free * 2**30))
    first = plan_of(threads="null", lanes=None, cores=8)
    assert first.study.threads == threads
    assert {trial.threads for trial in first.trials} == {threads}
    ids = {t.trial_id for t in plan_of(threads=str(threads), cores=8).trials}
    assert {t.trial_id for t in first.trials} == ids
    save(first)
    # Asked for again where less or more is free, the run keeps what it was made with.
    monkeypatch.setattr("bench.training.room.usable_memory", lambda: 2**31)
    again = plan_of(threads="null", lanes=None, cores=3)
    assert again.study.threads == threads
    assert {t.trial_id for t in again.trials} == ids
    # What is asked for stands.
    assert plan_of(run="other", threads="4", lanes=None, cores=8).study.threads == 4
    assert plan_of(run="other", threads="null", lanes=2, cores=8).study.threads == 4


def test_more_threads_than_cores_are_refused_where_a_run_begins_here(plan_of, monkeypatch):
    monkeypatch.setattr("bench.planning.plan.usable_cores", lambda: 2)
    for lanes in (1, None):
        with pytest.raises(
            StudyError, match=r"^threads: the study asks for 500 .* 2 cores .* 2 at most"
        ):
            plan_of(threads="500", lanes=lanes)
    assert plan_of(threads="2").study.threads == 2
    # A cluster says itself which of its machines hold a lane; and a run goes on on fewer cores.
    begun = plan_of(threads="500", cores=4)
    save(begun)
    assert plan_of(threads="500").trials == begun.trials


def test_a_plan_says_what_may_end_early(plan_of):
    assert ends_early(plan_of(schedules="[constant, one_cycle, cosine]", epochs=8, patience=7)) == [
        "trials with schedule constant end early after 7 looks without a better score",
        "trials with schedule one_cycle or cosine train for their whole budget",
    ]


def test_a_plan_says_where_looks_are_too_few_for_patience(plan_of):
    (line,) = ends_early(plan_of(epochs=40, looks=7, patience=7))
    assert line == (
        "trials with schedule constant train for their whole budget: "
        "a patience of 7 cannot end a trial of 7 looks"
    )


def test_looks_are_a_number_from_the_first_run_on(plan_of):
    first = plan_of(epochs=200)
    # Images are one pass each: 40 of them make 19 or 20 in training, 6 to 8 in inner validation.
    looks = first.study.looks
    sizes = [(len(s.train), len(s.inner), len(s.test)) for s in first.sets[0].splits]
    room = [3 * 200 * train * 0.15 / 0.85 - 2 * test - inner for train, inner, test in sizes]
    expected = min(200, *(int(r / inner) for r, (_, inner, _) in zip(room, sizes, strict=True)))
    assert looks == expected
    save(first)
    assert yaml.safe_load((first.folder / "study.yaml").read_text())["looks"] == looks
    for same in ({}, {"looks": looks}):
        again = plan_of(epochs=200, **same)
        assert {t.trial_id for t in again.trials} == {t.trial_id for t in first.trials}
    with pytest.raises(StudyError, match="looks: this run was made with"):
        plan_of(epochs=200, looks="null")


def test_a_run_from_before_looks_could_be_set_looks_after_each_epoch(plan_of):
    first = plan_of(epochs=200, looks="null")
    save(first)
    path = first.folder / "study.yaml"
    path.write_text(path.read_text().replace("looks: null\n", ""))
    again = plan_of(epochs=200)
    assert again.study.looks is None
    assert {t.trial_id for t in again.trials} == {t.trial_id for t in first.trials}
    save(again)
    assert yaml.safe_load(path.read_text())["looks"] is None


def test_as_many_looks_as_epochs_are_no_other_trial(plan_of):
    def ids(looks):
        return {t.trial_id for t in plan_of(run=str(looks), epochs=4, looks=looks).trials}

    assert ids("null") == ids(4) == ids(9)
    assert not ids("null") & ids(3)


def test_the_axes_may_grow_and_the_record_keeps_both(plan_of):
    save(plan_of())
    save(plan_of(optimizers="[adamw]"))
    text = (plan_of().folder / "study.yaml").read_text()
    assert [o.name for o in parse_study(text, "study.yaml").optimizers] == ["sgd", "adam", "adamw"]


def test_a_run_records_every_setting_of_its_entries(plan_of):
    save(plan_of(optimizers="[sgd, {adam: {lr: 0.5}}]", losses="[focal]"))
    content = yaml.safe_load((plan_of().folder / "study.yaml").read_text())["resolved"]
    # torch's own defaults, and what the study sets
    made = torch.optim.Adam([torch.zeros(1)], lr=0.5).defaults
    adam = content["optimizers"]["adam(lr=0.5)"]
    assert adam == {
        "lr": 0.5,
        "betas": list(made["betas"]),
        "eps": made["eps"],
        "weight_decay": made["weight_decay"],
    }
    assert content["optimizers"]["sgd"]["lr"] == 0.01
    assert content["losses"] == {"focal": {"gamma": 2.0}}  # Lin et al. 2017, section 5.1
    assert content["schedules"] == {"constant": {"warmup": 0.0}}
    assert content["models"].keys() == {"plain_cnn"}


def test_the_record_of_settings_grows_with_the_axes(plan_of):
    save(plan_of())
    save(plan_of(optimizers="[adamw]"))
    content = yaml.safe_load((plan_of().folder / "study.yaml").read_text())["resolved"]
    assert list(content["optimizers"]) == ["sgd", "adam", "adamw"]


def test_the_record_of_settings_may_be_copied_and_never_edited(plan_of):
    save(plan_of())
    content = yaml.safe_load((plan_of().folder / "study.yaml").read_text())["resolved"]
    assert plan_of(run="again", resolved=in_one_line(content)).study.resolved == content
    content["optimizers"]["sgd"]["lr"] = 0.5
    with pytest.raises(StudyError, match=r"resolved: optimizers\.sgd .* set it under optimizers"):
        plan_of(run="again", resolved=in_one_line(content))


def test_a_record_of_before_a_setting_came_is_taken(plan_of):
    save(plan_of())
    content = yaml.safe_load((plan_of().folder / "study.yaml").read_text())["resolved"]
    del content["optimizers"]["sgd"]["nesterov"]
    found = plan_of(run="again", resolved=in_one_line(content)).study.resolved
    assert found["optimizers"]["sgd"]["nesterov"] is False


@pytest.mark.parametrize("change", [{"epochs": "2"}, {"margin": "0.5"}, {"threads": "2"}])
def test_another_protocol_in_the_same_folder_is_refused(plan_of, change):
    save(plan_of())
    with pytest.raises(StudyError, match=next(iter(change))):
        plan_of(**change)


def test_a_margin_of_errors_counts_standard_deviations_of_the_numbers(plan_of, small_store):
    """Half of the numbers are 0, half are 1. Beside a margin of one's own nothing is counted."""
    data = {"data": f"[{small_store('regression', 2).path}]", "losses": "[l1]"}

    def counted(**changes):
        found = plan_of(**data, **changes).study
        return found.margin, found.data[0].deviation

    assert counted() == (0.01, 0.5)
    assert counted(primary="{regression: rmse}") == (0.01, 0.5)
    for metric in ("r2", "pearson", "concordance"):
        assert counted(primary=f"{{regression: {metric}}}") == (0.01, None)
    assert counted(margin="0.01") == (0.01, None)
    assert plan_of().study.data[0].deviation is None

    first = plan_of(run="counted", **data)
    save(first)
    rule = json.loads((first.folder / "rule.json").read_text())
    assert (rule["margin"], rule["deviations"]) == (0.01, {"small-regression": 0.5})
    rule["deviations"]["more"] = 2.0
    assert (
        "margin 0.01; small-regression: 0.005 in the unit of its numbers, whose standard deviation "
        "is 0.5; more: 0.02 in the unit of its numbers, whose standard deviation is 2, alpha 0.05"
    ) in in_words(rule, {"regression"})
    assert counted(run="counted") == (0.01, 0.5)
    with pytest.raises(StudyError, match="the settings of"):
        counted(run="counted", margin="0.01")
    # As a study of its own, what a run wrote down is the same.
    content = yaml.safe_load((first.folder / "study.yaml").read_text())
    again = parse_study(yaml.safe_dump(content), "study.yaml")
    assert resolve(again, first.folder, first.folder.parent / "copied").study.data[0].deviation

    # A run of before goes on as it was.
    del content["data"][0]["deviation"]
    (first.folder / "study.yaml").write_text(yaml.safe_dump(content))
    assert counted(run="counted") == (0.01, None)


def test_folds_are_read_back_from_the_run(plan_of):
    first = plan_of()
    save(first)
    again = plan_of()
    for a, b in zip(first.sets[0].splits, again.sets[0].splits, strict=True):
        assert (a.train == b.train).all()
        assert (a.test == b.test).all()


def test_a_missing_store_is_said_with_what_to_do(plan_of):
    with pytest.raises(StudyError, match="medopt prepare"):
        plan_of(data="[no/such/store]")


OWN = """
import torch
from torch import nn
from loaders.cases import Case, Meta
import numpy as np

class Net(nn.Module):
    def __init__(self, in_channels, out_channels, dims, patch):
        super().__init__()
        self.last = nn.Linear(in_channels, out_channels)
    def forward(self, x):
        return self.last(x.flatten(2).mean(2))

def loss(logits, target):
    return nn.functional.cross_entropy(logits, target)

class Slow(torch.optim.SGD):
    pass

def data():
    meta = Meta(kind="own", name="mine", task="classification", dims=2, channels=("x",),
                classes=("a", "b"), regions={}, positive=1, normalize="train", fill=0.0,
                unit="image", group_source="case", source="me", licence="mine", options={})
    rng = np.random.default_rng(0)
    def cases():
        for n in range(24):
            image = rng.integers(0, 200, (1, 9, 9)).astype(np.uint8) + np.uint8(40 * (n % 2))
            yield Case(key=str(n), group=str(n), image=image, label=n % 2, mask=None,
                       spacing=(1.0, 1.0))
    return meta, cases()
"""


@pytest.fixture
def own_plan(tmp_path):
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "own.py").write_text(OWN)
    # Names of ours in the user's folder must neither be imported nor be in the way.
    for name in ("models", "results", "loaders", "bench"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise RuntimeError('the wrong package')")

    def make():
        study = parse_study(
            study_text(
                "code/own.py:data",
                models="['code/own.py:Net']",
                optimizers="[adam, {'code/own.py:Slow': {lr: 0.1}}]",
                losses="[ce, 'code/own.py:loss']",
            ),
            "study.yaml",
        )
        return resolve(study, tmp_path, tmp_path / "runs" / "own", lanes=1)

    return make


@pytest.mark.slow
def test_parts_of_the_users_own_run_beside_folders_named_like_ours(own_plan, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    plan = own_plan()
    save(plan)
    labels = {tuple(t.combination.values())[:4] for t in plan.trials}
    assert ("mine", "Net", "Slow(lr=0.1)", "loss") in labels
    with opened(plan, shared_device=False) as queue:
        run_here(plan, queue, lambda _state: None)
    assert set(results.finished(plan.folder).values()) == {"ok"}


def test_an_edit_of_the_users_source_is_another_trial(own_plan, tmp_path):
    before = {t.trial_id for t in own_plan().trials}
    source = tmp_path / "code" / "own.py"
    source.write_text(OWN.replace("mean(2)", "amax(2)"))
    # Within a process what was loaded first stays, so that a trial is what its id says it is.
    assert before == {t.trial_id for t in own_plan().trials}
    load_reference.cache_clear()
    assert not before & {t.trial_id for t in own_plan().trials}


def test_a_part_that_is_not_there_is_said_with_the_choices(own_plan, tmp_path):
    (tmp_path / "code" / "own.py").write_text(OWN.replace("class Net", "class Nett"))
    with pytest.raises(StudyError, match="Did you mean 'Nett'"):
        own_plan()


def test_a_trial_that_breaks_is_a_row_and_the_others_go_on(own_plan, tmp_path):
    breaks = OWN.replace(
        # Not on the three samples that a plan tries it with.
        "return nn.functional.cross",
        "if len(logits) > 3:\n        raise RuntimeError('planted')\n"
        "    return nn.functional.cross",
    )
    (tmp_path / "code" / "own.py").write_text(breaks)
    plan = own_plan()
    save(plan)
    with opened(plan, shared_device=False) as queue:
        run_here(plan, queue, lambda _state: None)
    rows = results.read(plan.folder, "trials").to_pylist()
    assert len(rows) == len(plan.trials)
    assert {(r["loss"], r["status"], r["reason"]) for r in rows} == {
        ("loss", "failed", "RuntimeError: planted"),
        ("ce", "ok", None),
    }


def test_one_trial_of_a_plan_can_be_chosen(plan_of):
    plan = plan_of()
    assert plan.only(plan.trials[3].trial_id).trials == (plan.trials[3],)
    with pytest.raises(StudyError, match="no trial 'x'"):
        replace(plan).only("x")


def test_a_gpu_that_is_not_there_is_said(plan_of):
    if torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    with pytest.raises(StudyError, match="medopt doctor"):
        plan_of(device="cuda")


def edited(table: pa.Table, column: str, values: list[object]) -> pa.Table:
    """Return a table with one column of other values."""
    place = table.schema.get_field_index(column)
    return table.set_column(place, column, pa.array(values))


BROKEN_FOLDS = {
    "empty": lambda _table, raw: b"",
    "cut": lambda _table, raw: raw[:-40],
    "text": lambda _table, raw: b"these are no folds\n" * 50,
    "zeros in the middle": lambda _table, raw: raw[:8] + bytes(len(raw) - 300) + raw[-292:],
    "no column part": lambda table, _raw: table.drop_columns("part"),
    "no column dataset": lambda table, _raw: table.drop_columns("dataset"),
    "texts for numbers": lambda table, _raw: edited(table, "fold", ["x"] * len(table)),
    "empty cells": lambda table, _raw: edited(table, "fold", [None] * len(table)),
    "no rows of a fold": lambda table, _raw: table.slice(len(table) // 2),
    "unknown part": lambda table, _raw: edited(table, "part", ["inner2"] * len(table)),
    "unknown case": lambda table, _raw: edited(table, "case_id", ["0" * 16] * len(table)),
    "a case twice": lambda table, _raw: pa.concat_tables([table, table]),
}


@pytest.mark.parametrize("name", BROKEN_FOLDS)
def test_broken_folds_are_one_sentence_and_are_left_as_they_are(plan_of, name):
    plan = plan_of()
    save(plan)
    path = plan.folder / "folds.parquet"
    made = BROKEN_FOLDS[name](pq.read_table(path), path.read_bytes())
    if isinstance(made, bytes):
        path.write_bytes(made)
    else:
        pq.write_table(made, path)
    broken = path.read_bytes()
    with pytest.raises(StudyError, match=r"folds\.parquet") as caught:
        plan_of()
    assert len(str(caught.value).splitlines()) == 1
    assert path.read_bytes() == broken
    path.unlink()
    assert [t.trial_id for t in plan_of().trials] == [t.trial_id for t in plan.trials]


def test_a_run_whose_study_is_in_another_encoding_is_one_sentence(plan_of):
    plan = plan_of()
    save(plan)
    path = plan.folder / "study.yaml"
    path.write_bytes(path.read_bytes() + "# größe\n".encode("latin-1"))
    with pytest.raises(StudyError, match=r"study\.yaml: is not in UTF-8: byte 0xf6 in line"):
        plan_of()
