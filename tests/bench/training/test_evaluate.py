"""What a trial's evaluation hands to the metrics, held by the rows that it leaves."""

import threading
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from bench.core.processes import World
from bench.losses.table import LOSSES
from bench.metrics.aggregate import classification_rows, segmentation_rows
from bench.metrics.table import METRICS
from bench.study.choice import Choice
from bench.study.tasks import TASKS
from bench.training import evaluate
from bench.training.evaluate import Evaluator
from bench.training.train import make_sampler, run_trial
from models.output import Output
from results.tables.schema import CASES
from results.tables.store import read, write_trial
from tests.trials import changed

ROW_KEYS = [
    *("metric", "unit", "region", "convention", "stratum", "degradation"),
    *("value", "headline"),
]


def run(case, **changes):
    trial, data, base = case
    return run_trial(changed(trial, **changes), data, base, device=torch.device("cpu")), data


def rows_of(outcome, split):
    return [{k: r[k] for k in ROW_KEYS} for r in outcome.metrics if r["split"] == split]


@pytest.mark.parametrize("dims", [2, 3])
def test_the_metrics_of_the_test_fold_can_be_made_again_from_its_stored_cases(
    make_trial, tmp_path, dims
):
    outcome, data = run(make_trial("segmentation", dims))
    of_numbers = {"truth", "predicted"}
    assert {key for row in outcome.cases for key in row} == set(CASES.names) - of_numbers
    meta = data.store.meta
    trial = {"trial_id": "a0", "status": "ok"}
    write_trial(tmp_path, trial=trial, metrics=[], epochs=[], cases=outcome.cases, footer={})
    cases = read(tmp_path, "cases").to_pylist()
    again = segmentation_rows(cases, tuple(meta.regions), group=meta.group_source)
    assert again == rows_of(outcome, "test")
    assert {r["unit"] for r in again} == {"case", "voxel", "lesion", "image", "patient"}
    assert all(c["lesion_prob"] is not None and c["nsd_2mm"] is not None for c in cases)


def test_inner_validation_leaves_the_costly_metrics_out(make_trial):
    outcome, _ = run(make_trial("segmentation"))
    rows = rows_of(outcome, "inner")
    assert {r["unit"] for r in rows} == {"case", "voxel", "patient"}
    costly = {r["metric"] for r in rows if METRICS[r["metric"]].costly and r["value"] is not None}
    assert not costly


# Those of image detection are undefined here: every case of this data set holds both regions.
@pytest.mark.parametrize(
    "primary", [m.name for m in METRICS.values() if m.costly and not m.presence]
)
def test_a_costly_metric_can_decide(make_trial, primary):
    outcome, _ = run(make_trial("segmentation", epochs=2), primary=primary)
    assert outcome.trial["val_score"] is not None
    assert outcome.trial["test_score"] is not None


@pytest.mark.parametrize("task", TASKS)
def test_cases_that_threads_prepare_and_score_have_the_same_rows(make_trial, monkeypatch, task):
    """As on a GPU, whose host has cores to spare; the order of cases is that of the fold."""
    worse = {"degrade": (Choice(name="noise", params={"deviation": 3.0}),)}
    found, names = [], set()
    for threads in (0, 1, 3):
        monkeypatch.setattr(Evaluator, "_preparers", lambda _, threads=threads: min(threads, 1))
        monkeypatch.setattr(Evaluator, "_scorers", lambda *_, threads=threads: threads)
        score = TASKS[task].score

        def noted(seen, score=score):
            names.add(threading.current_thread().name.split("_")[0])
            return score(seen)

        monkeypatch.setitem(TASKS, task, replace(TASKS[task], score=noted))
        outcome, _ = run(make_trial(task), **worse)
        monkeypatch.setitem(TASKS, task, replace(TASKS[task], score=score))
        found.append((outcome.metrics, outcome.cases, outcome.examples))
    assert names == {"MainThread", "ahead"}
    assert found[0] == found[1] == found[2]


def test_as_many_cases_are_scored_at_once_as_threads_and_memory_allow(make_trial, monkeypatch):
    trial, data, _ = make_trial("segmentation", threads=4)
    sampler, cases = make_sampler(trial, data, seed=0), data.split(0, 0).test
    settings = {"store": data.store, "sampler": sampler, "model": Says(), "world": World()}
    settings |= {"criterion": LOSSES["ce"].bind({}), "weights": None, "trial": trial}
    on = {
        name: Evaluator(**settings, device=torch.device(name))._scorers for name in ("cpu", "cuda")
    }
    task = TASKS["segmentation"]
    assert (on["cpu"](task, cases), on["cuda"](task, cases)) == (0, 4)
    of_largest = 4 * len(data.store.meta.classes) * int(data.store.shapes[cases].prod(axis=1).max())
    for limit, threads in ((3 * of_largest, 3), (of_largest - 1, 1)):
        monkeypatch.setattr(evaluate, "SCORED_BYTES", limit)
        assert on["cuda"](task, cases) == threads
    assert on["cuda"](TASKS["classification"], cases) == 1


def test_patients_of_several_images_are_scored_too(make_trial):
    outcome, data = run(make_trial("classification"))
    meta = data.store.meta
    prob = np.array([c["prob"] for c in outcome.cases]).reshape(-1, len(meta.classes))
    log_odds = np.array([c["log_odds"] for c in outcome.cases]).reshape(prob.shape)
    label = np.array([c["label"] for c in outcome.cases]).reshape(prob.shape).argmax(axis=1)
    groups = [c["group_id"] for c in outcome.cases][:: len(meta.classes)]
    expected = classification_rows(
        prob,
        label,
        log_odds=log_odds,
        classes=meta.classes,
        positive=meta.positive,
        unit=meta.unit,
        groups=groups,
        group_unit="patient",
    )
    assert rows_of(outcome, "test") == expected
    assert {r["unit"] for r in expected} == {"image", "patient"}


class Says(nn.Module):
    """A network that finds label 2 everywhere, and takes the mean of a window for its presence."""

    def forward(self, image: torch.Tensor) -> Output:
        logits = torch.tensor([0.0, 1.0, 2.0])[:, None, None].repeat(1, *image.shape[2:])
        mean = image.mean(dim=(1, 2, 3))
        return Output(
            logits=logits.repeat(len(image), 1, 1, 1),
            presence=torch.stack([mean + 9, mean, mean - 1], dim=1),
        )


def test_a_network_that_says_what_a_window_holds_is_believed(make_trial):
    trial, data, _ = make_trial("segmentation", side=32, patch=(16, 16), overlap=0.0)
    sampler = make_sampler(trial, data, seed=0)
    evaluator = Evaluator(
        trial=trial,
        store=data.store,
        sampler=sampler,
        model=Says(),
        criterion=LOSSES["ce"].bind({}),
        weights=None,
        device=torch.device("cpu"),
        world=World(),
    )
    cases = data.split(0, 0).test[:3]
    rows = evaluator.score(cases, final=True).cases
    for index in cases:
        draws = sampler.centre(np.array([index]))
        image = (data.store.image(int(index)) - draws.offset[0][:, None, None]) * draws.gain[0][
            :, None, None
        ]
        sides = [sorted({*range(0, s - 15, 16), s - 16}) for s in image.shape[1:]]
        highest = max(image[:, y : y + 16, x : x + 16].mean() for y in sides[0] for x in sides[1])
        found = {r["region"]: r["prob"] for r in rows if r["case_id"] == data.store.case_ids[index]}
        # Presence of a region is that of the likeliest of its labels, here 1 of (1, 2).
        assert found == pytest.approx(
            {"whole": 1 / (1 + np.exp(-highest)), "core": 1 / (1 + np.exp(1 - highest))}, rel=1e-4
        )
