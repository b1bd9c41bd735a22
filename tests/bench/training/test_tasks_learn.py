"""Each task of numbers learns a made signal, and learns nothing where its answers are shuffled.

Pictures of 12 x 12 pixels, the answers in how bright their quarters are. A case has an image of its
own, so what is learnt is not remembered.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bench.study.choice import Choice
from bench.study.dataset import DataSet, split_store
from bench.study.schema import Augment
from bench.study.tasks import TASKS
from bench.training.train import run_trial
from loaders.cases import Case, Item, Kind, Label, Meta, Survey
from loaders.store.read import open_store
from loaders.store.write import write_store
from tests.metas import made_meta
from tests.trials import changed

SIDE = 12
CASES = 240

# Task -> what its answers are called, and the answer of a case by the quarters' levels (4,), 0..1.
ANSWERS: dict[str, tuple[tuple[str, ...], Callable[[np.ndarray, int], Label]]] = {
    "multilabel": (
        ("upper left", "upper right", "lower left"),
        # Of every seventh case a finding is not known.
        lambda level, n: tuple(
            None if (n + k) % 7 == 0 else float(level[k] > 0.5) for k in range(3)
        ),
    ),
    # A grade is a quarter of what there is.
    "ordinal": (("0", "1", "2", "3"), lambda level, _n: int(4 * level[0])),
    # In no unit that a network would start from: 800 to 1200.
    "regression": (("pressure",), lambda level, _n: (1000 + 200 * float(level[0] - level[3]),)),
}


def pictures(item: Item, meta: Meta) -> Iterator[Case]:
    """Give cases, their answers those of others where the item says so."""
    rng = np.random.default_rng(0)
    _, answer = ANSWERS[meta.task]
    levels = rng.random((CASES, 4))
    order = rng.permutation(CASES) if item.extra["shuffled"] else np.arange(CASES)
    for n, level in enumerate(levels):
        bright = np.kron(level.reshape(2, 2), np.ones((SIDE // 2, SIDE // 2)))
        image = (60 + 120 * bright + 20 * rng.normal(size=(1, SIDE, SIDE))).clip(0, 255)
        other = int(order[n])
        yield Case(
            key=f"case{n}",
            group=f"patient{n // 2}",
            image=image.astype(np.uint8),
            label=answer(levels[other], other),
            mask=None,
            spacing=(1.0, 1.0),
        )


MADE = Kind(
    name="made",
    summary="made by a test",
    source="none",
    survey=lambda _source, _options: pytest.fail("not surveyed"),
    read=pictures,
    options={},
)


@pytest.fixture(scope="module")
def learnt(tmp_path_factory: pytest.TempPathFactory, make_trial: Any) -> Callable[..., Any]:
    """Return a maker of the test rows (metric, region) -> value of a trial of a task."""
    folder = tmp_path_factory.mktemp("made")

    def run(task: str, *, shuffled: bool, loss: str | None = None) -> dict[tuple[str, str], float]:
        out = Path(folder / f"{task}-{shuffled}-{loss}")
        meta = made_meta(
            task=task, classes=ANSWERS[task][0], group_source="patient", channels=("a",)
        )
        item = Item(key="all", paths=(), extra={"shuffled": shuffled})
        survey = Survey(meta=meta, items=(item,), rejected=())
        write_store(MADE, survey, out, key=b"test", workers=1, strict=True)
        store = open_store(out)
        splits = split_store(store, folds=4, repeats=1, seed=0, inner_fraction=0.2)
        data = DataSet(name=meta.name, path=out, splits=splits)
        trial, _, base = make_trial(task)
        trial = changed(
            trial,
            dataset=data.name,
            model=Choice(name="plain_cnn"),
            optimizer=Choice(name="adam", params={"lr": 3e-3}),
            patch=(SIDE, SIDE),
            batch_size=16,
            epochs=20,
            # A mirror would move what a quarter says to another.
            augment=Augment(flip=False, scale=0.0, shift=0.0),
        )
        if loss:
            trial = changed(trial, loss=Choice(name=loss))
        done = run_trial(trial, data, base, device=torch.device("cpu"))
        return {
            (m["metric"], m["region"]): m["value"]
            for m in done.metrics
            if m["split"] == "test" and m["unit"] == meta.unit
        }

    return run


def test_several_findings_are_learnt_each(learnt: Callable[..., Any]) -> None:
    found = learnt("multilabel", shuffled=False)
    for name in ANSWERS["multilabel"][0]:
        assert found["auc", name] > 0.9
    assert found[TASKS["multilabel"].primary, "mean"] > 0.9
    assert 0.35 < learnt("multilabel", shuffled=True)["auc", "mean"] < 0.65


def test_a_number_is_learnt_in_its_own_unit(learnt: Callable[..., Any]) -> None:
    found = learnt("regression", shuffled=False)
    assert found["r2", ""] > 0.8
    assert found["concordance", ""] > 0.9
    # The difference of two levels, of 0 to 1 each, has a deviation of 200 / sqrt(6) = 82.
    assert found[TASKS["regression"].primary, ""] < 30
    of_others = learnt("regression", shuffled=True)
    assert of_others["r2", ""] < 0.1
    assert of_others["rmse", ""] > 60


@pytest.mark.parametrize("loss", ["ce", "squared_emd"])
def test_grades_are_learnt_in_their_order(learnt: Callable[..., Any], loss: str) -> None:
    found = learnt("ordinal", shuffled=False, loss=loss)
    assert found[TASKS["ordinal"].primary, ""] > 0.8
    assert abs(learnt("ordinal", shuffled=True, loss=loss)["quadratic_kappa", ""]) < 0.35
