"""What is taught in place of answers: of the training part alone, by the seed, against torch."""

import dataclasses

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from bench.losses.table import LOSSES, alone
from bench.study.choice import Choice
from bench.study.dataset import DataSet, split_store
from bench.training.samples.labels import flipped, of_odds, taught, votes
from bench.training.train import run_trial
from loaders.batches.drawn import class_counts
from loaders.batches.torch_loader import gather
from loaders.cases import Case, Item, Survey
from loaders.datasets.table import KINDS
from loaders.sampling.sampler import Recipe, Sampler
from loaders.store.prepare import prepare
from loaders.store.pseudonyms import keyed_id
from loaders.store.read import open_store
from loaders.store.write import write_store
from tests.bench.training.samples.test_clinical import planned
from tests.conftest import SMALL, small_meta


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
@pytest.mark.parametrize("task", ["classification", "ordinal"])
def test_a_share_of_the_training_cases_has_another_class(small_store, task, share):
    store = small_store(task, 2)
    train = np.arange(3, 31)
    found = flipped(store, train, share, seed=5)
    changed = np.flatnonzero(found != store.labels)
    assert len(changed) == round(share * 28)
    assert set(changed) <= set(train)
    assert np.isin(found, (0, 1)).all()
    assert np.array_equal(found, flipped(store, train, share, seed=5))
    if share == 0.25:
        assert not np.array_equal(found, flipped(store, train, share, seed=6))


def test_each_other_class_is_as_likely(small_store):
    store = small_store("classification", 2)
    many = store.with_answers(np.repeat(np.arange(4), 250)[: len(store)])
    meta = dataclasses.replace(store.meta, classes=tuple("abcd"), positive=None)
    many.meta = meta
    many.__dict__["answers"] = np.repeat(np.arange(4), 1000)
    found = flipped(many, np.arange(4000), 1.0, seed=0)
    for label in range(4):
        counts = np.bincount(found[many.answers == label], minlength=4)
        assert counts[label] == 0
        # A third of 1000 each, within four standard deviations of a binomial.
        assert np.abs(np.delete(counts, label) - 1000 / 3).max() < 4 * np.sqrt(1000 * 2 / 9)


def test_findings_are_turned_round_and_missing_ones_stay_so(small_store):
    store = small_store("multilabel", 2)
    train = np.arange(0, 30)
    before, found = store.answers, flipped(store, train, 0.5, seed=0)
    assert np.array_equal(np.isnan(found), np.isnan(before))
    for k in range(2):
        known = np.isfinite(before[:, k])
        changed = np.flatnonzero(known & (found[:, k] != before[:, k]))
        assert len(changed) == round(0.5 * known[train].sum())
        assert set(changed) <= set(train)
        assert np.array_equal(found[changed, k], 1 - before[changed, k])


def test_loaders_and_weights_see_what_is_taught_and_the_store_stays(small_store):
    store = small_store("classification", 2)
    train = np.arange(20)
    other = store.with_answers(flipped(store, train, 1.0, seed=0))
    sampler = Sampler(
        cases=train,
        shapes=store.shapes,
        offset=np.zeros((len(store), 2)),
        unit=np.ones((len(store), 2)),
        recipe=Recipe(patch=(16, 16), flip=(True, True), scale=0.0, shift=0.0, foreground=0.0),
        seed=0,
    )
    draws = sampler.draw(np.arange(40))
    assert np.array_equal(gather(other, draws)[1], 1 - gather(store, draws)[1])
    assert np.array_equal(gather(other, draws)[0], gather(store, draws)[0])
    assert class_counts(other, sampler).tolist() == class_counts(store, sampler).tolist()[::-1]
    assert np.array_equal(store.labels, open_store(store.path).labels)


# ---- readers ----------------------------------------------------------------------------------


RATINGS = [[1, 2, 5, 4], [3, 3, 3], [4, 5], [0, 5, 0, 3], [1, 1, 1, 1]]


@pytest.fixture(scope="module")
def nodules(tmp_path_factory):
    """Return a store of nodules with the malignancy that each of up to four readers gave."""
    meta = dataclasses.replace(
        small_meta("classification", 2), kind="lidc", options={"task": "malignancy"}
    )
    rng = np.random.default_rng(0)

    def cases():
        for n in range(40):
            given = RATINGS[n % 5]
            yield Case(
                key=f"n{n}",
                group=f"n{n}",
                image=rng.integers(0, 255, (2, 16, 16)).astype(np.uint8),
                label=int(np.mean(given) > 2.4),
                mask=None,
                spacing=(float(n % 5 + 1), 1.0),
                ratings={"subtlety": given[::-1], "malignancy": given},
            )

    kind = dataclasses.replace(SMALL, read=lambda _item, _meta: cases())
    survey = Survey(meta=meta, items=(Item(key="all", paths=(), extra={}),), rejected=())
    out = tmp_path_factory.mktemp("nodules") / "store"
    write_store(kind, survey, out, key=b"t", workers=1, strict=True)
    return open_store(out)


class Asked:
    """What `taught` looks at of a trial."""

    def __init__(self, readers="majority", flipped=0.0):
        self.readers, self.flipped = readers, flipped


def test_soft_targets_are_the_share_of_the_readers(nodules):
    """By hand: 1 and 2 are benign, 4 and 5 malignant, 3 is half of each, 0 is no rating."""
    share = {1: 0.5, 2: 0.5, 3: 1.0, 4: 0.75, 5: 0.0}
    train = np.arange(30)
    odds = taught(nodules, train, Asked(readers="soft"), seed=0).answers
    for case in range(40):
        place = int(nodules.spacing[case, 0])
        wanted = share[place] if case in train else nodules.labels[case]
        assert odds[case].tolist() == [1 - wanted, wanted]


def test_one_reader_is_one_of_those_who_decided(nodules):
    train = np.arange(30)
    drawn = np.array(
        [taught(nodules, train, Asked(readers="one"), seed=seed).labels for seed in range(60)]
    )
    for case in range(40):
        place = int(nodules.spacing[case, 0])
        mean = drawn[:, case].mean()
        if case not in train or place == 2:  # not taught, or nobody decided
            assert mean == nodules.labels[case]
        elif place == 1:
            assert 0.2 < mean < 0.8
        else:
            assert mean == {3: 1, 4: 1, 5: 0}[place]


def test_what_nobody_kept_is_skipped(small_store):
    assert votes(small_store("classification", 2)) is None
    trials, skips = planned(small_store("classification", 2), "labels: [as_given, soft_readers]")
    assert len(trials) == 3
    (skip,) = skips
    assert skip.reason == (
        "labels soft_readers need the answer of each reader, which data small does not keep: "
        "LIDC's malignancy does, and so does a table of several rows for each picture, with "
        "readers=majority"
    )


READ = {0: "abb", 1: "aaa", 2: "cca", 3: "b"}


def test_rows_of_several_readers_are_kept_one_by_one(tmp_path):
    """Of three classes, by hand: shares of readers, and one of them; the store has the majority."""
    rng = np.random.default_rng(0)
    lines = ["file,class,who"]
    for number in range(16):
        image = rng.integers(0, 255, (16, 16)).astype(np.uint8)
        Image.fromarray(image).save(tmp_path / f"{number}.png")
        given = READ[number % 4]
        lines += [f"{number}.png,{label},r{at}" for at, label in enumerate(given)]
        # A reader who says it twice has one voice.
        lines += [f"{number}.png,{given[0]},r0"] if number % 4 == 0 else []
    (tmp_path / "table.csv").write_text("\n".join(lines))
    options = {"label": "class", "reader": "who", "readers": "majority"}
    out = tmp_path / "store"
    prepare(KINDS["images"], tmp_path, out, options=options, key=b"t", strict=True)
    store = open_store(out)
    names = [keyed_id(b"t", "images", f"{number}.png") for number in range(16)]
    place = np.array([store.case_ids.index(name) for name in names])
    assert store.labels[place].tolist() == [1, 0, 2, 1] * 4
    train = place[:8]
    odds = taught(store, train, Asked(readers="soft"), seed=0).answers[place]
    by_hand = [[1 / 3, 2 / 3, 0], [1, 0, 0], [1 / 3, 0, 2 / 3], [0, 1, 0]]
    assert np.allclose(odds[:8], by_hand * 2)
    assert np.array_equal(odds[8:], np.eye(3)[[1, 0, 2, 1] * 2])
    drawn = [taught(store, train, Asked(readers="one"), seed=s).labels[place] for s in range(60)]
    seen = [set(labels) for labels in np.array(drawn).T.tolist()]
    assert seen[:8] == [{0, 1}, {0}, {0, 2}, {1}] * 2
    assert seen[8:] == [{1}, {0}, {2}, {1}] * 2
    trials, skips = planned(store, "labels: [as_given, soft_readers, one_reader]")
    assert len(trials) == 9
    assert not skips


def test_rows_that_agree_without_a_rule_are_no_readers(tmp_path):
    Image.fromarray(np.arange(256, dtype=np.uint8).reshape(16, 16)).save(tmp_path / "a.png")
    Image.fromarray(np.zeros((16, 16), np.uint8)).save(tmp_path / "b.png")
    (tmp_path / "table.csv").write_text("file,label\na.png,1\na.png,1\nb.png,0\n")
    out = tmp_path / "store"
    prepare(KINDS["images"], tmp_path, out, key=b"t", strict=True)
    assert votes(open_store(out)) is None


@pytest.mark.parametrize("name", ["ce", "weighted_ce", "ce_smooth"])
def test_soft_targets_are_those_of_torch(name):
    torch.manual_seed(0)
    logits, odds = torch.randn(7, 3), torch.softmax(torch.randn(7, 3), dim=1)
    row = LOSSES[name]
    settings = row.settings({})
    weights = torch.tensor([0.5, 1.0, 2.0]) if row.weighted else None
    found = of_odds(row.bind(settings))(logits, odds, weights, alone)
    wanted = F.cross_entropy(
        logits,
        odds,
        weight=weights,
        reduction="none",
        label_smoothing=float(settings.get("label_smoothing", 0.0)),
    )
    assert torch.allclose(found, wanted, atol=1e-6)
    classes = odds.argmax(dim=1)
    hard = of_odds(row.bind(settings))(logits, classes, weights, alone)
    assert torch.equal(hard, row.bind(settings)(logits, classes, weights, alone))


# ---- in a trial -------------------------------------------------------------------------------


def trained(make_trial, store, **changes):
    trial, data, base = make_trial("classification", epochs=8, **changes)
    if store is not None:
        splits = split_store(store, folds=4, repeats=1, seed=0, inner_fraction=0.25)
        data = DataSet(name="small", path=store.path, splits=splits)
    return run_trial(trial, data, base, device=torch.device("cpu"))


def test_what_is_taught_wrong_is_learned_wrong_and_scored_right(make_trial):
    right = trained(make_trial, None)
    wrong = trained(make_trial, None, labels=Choice(name="flipped"), flipped=1.0)
    assert right.trial["test_score"] > 0.9
    assert wrong.trial["test_score"] < 0.1  # all classes turned round: the worst score of all


def test_a_trial_learns_from_odds(make_trial, nodules):
    outcome = trained(
        make_trial, nodules, labels=Choice(name="soft_readers"), readers="soft", mixup=0.2
    )
    assert outcome.trial["status"] == "ok"
    assert np.isfinite([row["train_loss"] for row in outcome.epochs]).all()


def test_taught_as_given_has_the_id_that_it_had(small_store):
    store = small_store("classification", 2)
    before, _ = planned(store, "")
    after, skips = planned(store, "labels: [as_given, flipped, {flipped: {share: 0.3}}]")
    assert not skips
    own = {trial.trial_id for trial in after if trial.combination["labels"] is None}
    assert own == {trial.trial_id for trial in before}
    assert sorted({trial.flipped for trial in after}) == [0.0, 0.1, 0.3]
    assert len({trial.trial_id for trial in after}) == 9
