"""Clinical data beside images: scaled as scikit-learn does, fused as a concatenation, learned."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.impute import SimpleImputer
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from torch import nn

from bench.planning.expand import expand
from bench.study.choice import Choice
from bench.study.dataset import DataSet, split_store
from bench.study.schema import parse_study
from bench.training.samples.clinical import Clinical, LateFusion, digest, width
from bench.training.train import run_trial
from loaders.cases import Case, Item, Survey
from loaders.store.read import open_store
from loaders.store.write import write_store
from models.output import Output
from tests.conftest import SMALL, small_meta

ALL = Choice(name="with_clinical")


def cases(count):
    """Give images of noise; the class is in the age, and in the sex, but for what is missing."""
    rng = np.random.default_rng(0)
    for n in range(count):
        label = n % 2
        yield Case(
            key=f"c{n}",
            group=f"c{n}",
            image=rng.integers(0, 255, (2, 16, 16)).astype(np.uint8),
            label=label,
            mask=None,
            spacing=(1.0, 1.0),
            clinical={
                "age": float("nan") if n % 7 == 0 else 40 + 30 * label + rng.normal(0, 5),
                "sex": float("nan") if n % 5 == 0 else float(rng.integers(3)),
            },
        )


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    meta = small_meta("classification", 2)
    meta = dataclasses.replace(meta, options={"categories": {"sex": ["f", "m", "x"]}})
    kind = dataclasses.replace(SMALL, read=lambda _item, _meta: cases(48))
    item = Item(key="all", paths=(), extra={})
    out = tmp_path_factory.mktemp("clinical") / "store"
    write_store(
        kind, Survey(meta=meta, items=(item,), rejected=()), out, key=b"t", workers=1, strict=True
    )
    return open_store(out)


def test_numbers_are_those_of_scikit_learn(store):
    """Imputed by the mean, flagged, standardised; one-hot with a class of its own for unknown."""
    train = np.arange(0, 40, 2)
    found = Clinical.of(store, train).features
    known = np.isfinite(store.clinical["age"][train])
    age = store.clinical["age"][:, None]
    scaled = StandardScaler().fit(age[train][known])
    filled = SimpleImputer().fit(age[train]).transform(age)
    word = OneHotEncoder(categories=[[0.0, 1.0, 2.0, 9.0]], sparse_output=False)
    sex = word.fit_transform(np.nan_to_num(store.clinical["sex"], nan=9.0)[:, None])
    wanted = np.column_stack([scaled.transform(filled), np.isnan(age), sex])
    assert found == pytest.approx(wanted, abs=1e-5)
    assert found.shape[1] == width(store) == 6


def test_they_ride_in_a_channel_and_come_off_as_they_were(store):
    clinical = Clinical.of(store, np.arange(30))
    image = torch.randn(4, 2, 5, 3)
    rows = np.array([3, 9, 1, 40])

    class Kept(nn.Module):
        def forward(self, given):
            self.image = given
            return torch.zeros(4, 2)

    network = LateFusion(Kept(), numbers=6, classes=2)
    network(clinical.beside(image, rows))
    assert torch.equal(network.network.image, image)
    with pytest.raises(ValueError, match="6 numbers do not fit images of 4 pixels"):
        clinical.beside(torch.zeros(4, 2, 2, 2), rows)


def test_late_fusion_is_a_concatenation_before_the_last_layer(store):
    clinical = Clinical.of(store, np.arange(30))
    torch.manual_seed(0)
    body, head = nn.Sequential(nn.Flatten(), nn.Linear(24, 7), nn.ReLU()), nn.Linear(7, 3)
    fused = LateFusion(nn.Sequential(body, head), numbers=6, classes=3)
    nn.init.normal_(fused.beside.weight)
    joined = nn.Linear(7 + 6, 3)
    joined.weight.data = torch.cat([head.weight, fused.beside.weight], dim=1)
    joined.bias.data = head.bias
    image, rows = torch.randn(5, 2, 4, 3), np.arange(5)
    beside = torch.from_numpy(clinical.features[rows])
    wanted = joined(torch.cat([body(image), beside], dim=1))
    assert torch.allclose(fused(clinical.beside(image, rows)), wanted, atol=1e-6)
    several = LateFusion(Wrapped(nn.Sequential(body, head)), numbers=6, classes=3)
    several.beside = fused.beside
    assert torch.allclose(several(clinical.beside(image, rows)).logits, wanted, atol=1e-6)


class Wrapped(nn.Module):
    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, image):
        return Output(logits=self.network(image))


def trained(make_trial, store, **changes):
    trial, _, base = make_trial("classification", epochs=12, **changes)
    splits = split_store(store, folds=4, repeats=1, seed=0, inner_fraction=0.25)
    data = DataSet(name="small", path=store.path, splits=splits)
    return run_trial(trial, data, base, device=torch.device("cpu"))


def test_fusion_begins_as_the_network_alone(store):
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 2))
    image = torch.randn(3, 2, 4, 4)
    fused = LateFusion(network, numbers=2, classes=2)
    assert torch.equal(fused(image), network(image[:, :1]))
    fused(image).sum().backward()
    assert fused.beside.weight.grad.abs().min() > 0


def test_a_trial_learns_by_them_what_no_image_tells(make_trial, store):
    """The class is in the age alone: with it nearly all are told apart, without it none."""
    used = trained(make_trial, store, clinical=ALL, given_clinical=True, mixup=0.2)
    plain = trained(make_trial, store)
    assert used.trial["test_score"] > 0.95
    assert plain.trial["test_score"] < 0.8
    assert used.trial["parameters"] == plain.trial["parameters"] + 2 * 6


def planned(store, text):
    data = DataSet(
        name="small",
        path=store.path,
        splits=split_store(store, folds=3, repeats=1, seed=0, inner_fraction=0.25),
    )
    asked = "name: a\ndata: [x]\nmodels: [plain_cnn]\noptimizers: [adam]\nlosses: [ce]\nfolds: 3\n"
    study = parse_study(f"{asked}loader: torch\ndevice: cpu\nthreads: 1\nlooks: null\n{text}", "a")
    study = study.model_copy(update={"primary": {"classification": "auc", **study.primary}})
    return expand(study, [data], Path())


def test_with_and_without_are_an_axis_and_without_has_the_id_that_it_had(store):
    before, _ = planned(store, "")
    both, skips = planned(store, "clinical: [none, with_clinical]")
    assert not skips
    assert len(both) == 2 * len(before) == 6
    ids = {trial.trial_id for trial in both if trial.combination["clinical"] is None}
    assert ids == {trial.trial_id for trial in before}
    used = [trial.combination["clinical"] == "with_clinical" for trial in both]
    assert [trial.given_clinical for trial in both] == used


def test_a_store_without_them_is_skipped_with_the_way_to_have_them(small_store):
    trials, skips = planned(small_store("classification", 2), "clinical: [none, with_clinical]")
    assert len(trials) == 3
    (skip,) = skips
    assert skip.reason == (
        "data small has no clinical columns: `medopt prepare KIND SOURCE --set clinical=NAME,NAME` "
        "keeps them"
    )


def test_their_digest_is_that_of_their_values(store, small_store):
    again = open_store(store.path)
    assert digest(store) == digest(again)
    again.clinical["age"][0] += 1
    assert digest(store) != digest(again)
