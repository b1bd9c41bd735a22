"""The CNN + LSTM learns what no single frame shows: motion in cine loops, through the suite."""

from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from bench.study.choice import Choice
from bench.study.dataset import DataSet, split_store
from bench.training.train import run_trial
from loaders.datasets.table import KINDS
from loaders.store.prepare import prepare
from loaders.store.read import open_store
from tests.loaders.phantoms.cine_loops import make_cine
from tests.trials import changed

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def loops(tmp_path_factory: pytest.TempPathFactory) -> DataSet:
    folder = tmp_path_factory.mktemp("cine")
    make_cine(folder / "raw", loops=160, seed=7)
    options = {
        "image": "video",
        "label": "beat",
        "group": "patient",
        "positive": "fast relaxation",
        "frames": 12,
    }
    prepare(
        KINDS["cine"],
        folder / "raw",
        folder / "store",
        options=options,
        key=b"test",
        strict=True,
    )
    store = open_store(folder / "store")
    splits = split_store(store, folds=3, repeats=1, seed=0, inner_fraction=0.2)
    return DataSet(name="cine", path=store.path, splits=splits)


@pytest.fixture
def auc(loops, make_trial):
    """Return a function of (model, folds, epochs) -> AUC over the test cases of those folds."""
    base, _, _ = make_trial("classification")

    def scored(model: str, folds: tuple[int, ...], epochs: int) -> float:
        label, prob = [], []
        for fold in folds:
            trial = changed(
                base,
                dataset="cine",
                model=Choice(name=model, params={"encoder": "vgg_small"}),
                optimizer=Choice(name="adam", params={"lr": 2e-3}),
                fold=fold,
                patch=(12, 32, 32),
                batch_size=8,
                epochs=epochs,
                patience=epochs,
            )
            outcome = run_trial(trial, loops, Path.cwd(), device=torch.device("cpu"))
            rows = [c for c in outcome.cases if c["region"] == "fast relaxation"]
            label += [c["label"] for c in rows]
            prob += [c["prob"] for c in rows]
        return float(roc_auc_score(np.array(label), np.array(prob)))

    return scored


def test_frames_alone_tell_nothing(auc):
    # Three standard deviations of the AUC of a guess over 160 cases are 0.14.
    assert auc("frame_cnn", (0, 1, 2), 6) == pytest.approx(0.5, abs=0.14)


def test_their_order_tells_all(auc):
    assert auc("cnn_lstm", (0,), 20) > 0.9
