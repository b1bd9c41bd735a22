"""The test cases that are shown: of more than one class, the same for every combination."""

import io
from dataclasses import replace

import numpy as np
import pytest
import torch

from bench.metrics.tasks.scoring import Seen, thinned
from bench.training.examples import EXAMPLES, chosen
from bench.training.train import run_trial
from loaders.cases import Case, Item, Survey
from loaders.store.read import open_store
from loaders.store.write import write_store
from tests.conftest import SMALL
from tests.metas import made_meta


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ([0, 0, 0, 0, 1, 0], [0, 4, 1]),
        ([1, 0, 1, 0], [0, 1, 2]),
        ([2, 2, 1, 1, 0, 0, 3], [0, 2, 4]),
        ([0, 0, 0, 0], [0, 1, 2]),
        ([1], [0]),
    ],
)
def test_classes_are_shown_before_more_of_one(labels, expected):
    assert chosen(np.eye(4, dtype=bool)[labels]) == expected


def test_volumes_that_hold_more_classes_come_first():
    held = np.array([[1, 0, 0], [1, 0, 0], [1, 1, 0], [1, 0, 0], [1, 1, 1]], bool)
    assert chosen(held) == [0, 2, 4]


def test_the_examples_of_a_trial_are_of_both_classes(make_trial):
    trial, data, base = make_trial("classification")
    outcome = run_trial(trial, data, base, device=torch.device("cpu"))
    examples = np.load(io.BytesIO(outcome.examples))
    assert len(examples["label"]) == EXAMPLES
    assert set(examples["label"].tolist()) == {0, 1}
    test = data.split(trial.repeat, trial.fold).test
    ids = [data.store.case_ids[i] for i in test]
    labels = {data.store.case_ids[i]: data.store.labels[i] for i in test}
    assert set(examples["case_id"].tolist()) <= set(ids)
    for case, label in zip(examples["case_id"].tolist(), examples["label"], strict=True):
        assert labels[case] == label


COLOURS = np.arange(8 * 10 * 3, dtype=np.uint8).reshape(8, 10, 3)


def colour_store(folder):
    meta = made_meta(
        kind="small",
        name="colour",
        channels=("red", "green", "blue"),
        classes=("a", "b"),
    )

    def read(_item, _meta):
        for n in range(2):
            image = np.moveaxis(COLOURS + n, -1, 0).copy()
            yield Case(
                key=f"c{n}", group=f"c{n}", image=image, label=n, mask=None, spacing=(1.0, 1.0)
            )

    item = Item(key="all", paths=(), extra={})
    survey = Survey(meta=meta, items=(item,), rejected=())
    write_store(replace(SMALL, read=read), survey, folder, key=b"t", workers=1, strict=True)
    return open_store(folder)


def test_pictures_in_colour_are_left_in_colour(tmp_path):
    """As they were read, not as they are normalised: with the values of the file."""
    store = colour_store(tmp_path / "store")
    n = int(store.labels[0])
    seen = Seen(
        store=store,
        cases=np.array([0]),
        pixels=np.zeros((1, 3, 8, 10), np.float32),
        logits=torch.zeros(1, 2),
        target=np.array([n]),
        presence=None,
        costly=True,
    )
    assert (seen.picture(0) == COLOURS + n).all()


def test_large_pictures_are_thinned():
    picture = np.zeros((2000, 900, 3), np.uint8)
    assert thinned(picture).shape == (500, 225, 3)
    assert thinned(picture[:512, :300]).shape == (512, 300, 3)
