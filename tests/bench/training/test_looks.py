"""How often inner validation looks, against dates worked out by hand and MONAI's windows."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from monai.data.utils import dense_patch_slices
from monai.inferers.utils import _get_scan_interval

from bench.study.choice import Choice
from bench.study.components import Combination
from bench.study.pretrained import InitialWeights, weights_digest
from bench.training.looks import affordable, due, passes
from bench.training.networks import build_model
from bench.training.train import run_trial
from bench.training.windows import starts
from loaders.sampling.folds import Split
from tests.bench.training.test_state import case, same, timeless
from tests.trials import changed

CPU = torch.device("cpu")


def run(made, **changes):
    trial, data, base = made
    return run_trial(changed(trial, **changes), data, base, device=CPU)


def dates(looks, ends, epochs):
    """Return the ends of epochs after which a look is due."""
    before = [0, *ends[:-1]]
    return [e for b, e in zip(before, ends, strict=True) if due(b, e, looks=looks, epochs=epochs)]


@pytest.mark.parametrize(
    ("looks", "epochs", "expected"),
    [
        # 14 / 5 = 2.8, 5.6, 8.4, 11.2, 14: each at the first whole epoch that is not before it.
        (5, 14, [3, 6, 9, 12, 14]),
        (3, 9, [3, 6, 9]),
        (1, 4, [4]),
        (10, 12, [2, 3, 4, 5, 6, 8, 9, 10, 11, 12]),
        (4, 4, [1, 2, 3, 4]),
        (9, 4, [1, 2, 3, 4]),
        (None, 4, [1, 2, 3, 4]),
    ],
)
def test_looks_lie_evenly_and_the_last_at_the_end(looks, epochs, expected):
    assert dates(looks, list(range(1, epochs + 1)), epochs) == expected


def test_a_step_of_several_epochs_is_looked_at_once():
    assert dates(5, [1, 7, 8, 14], 14) == [7, 14]
    assert dates(None, [1, 7, 8, 14], 14) == [1, 7, 8, 14]


@pytest.mark.parametrize("overlap", [0.0, 0.25, 0.5, 0.95])
@pytest.mark.parametrize(("side", "window"), [(16, 16), (17, 16), (40, 24), (48, 24), (59, 32)])
def test_windows_lie_where_monai_lays_them(side, window, overlap):
    step = _get_scan_interval((side,), (window,), 1, (overlap,))
    slices = dense_patch_slices((side,), (window,), step)
    assert starts(side, window, overlap) == [s.start for (s,) in slices]


def test_passes_are_counted_in_patches():
    shapes = np.array([[40, 48, 48], [10, 24, 24], [40, 48, 48]])
    patch = (24, 24, 24)
    # Two windows along each side; one; of the padded image one and the first 40 x 48 x 48 / 24^3.
    assert passes(shapes, patch, overlap=0.0, whole=False).tolist() == [8, 1, 8]
    assert passes(shapes, patch, overlap=0.0, whole=True) == pytest.approx([20 / 3, 1, 20 / 3])


def split(train, inner, test):
    at = np.cumsum([train, inner, test])
    parts = np.split(np.arange(at[-1]), at[:-1])
    return Split(repeat=0, fold=0, train=parts[0], inner=parts[1], test=parts[2])


def test_looks_are_as_many_as_a_share_of_the_passes_allows():
    of_cases = split(64, 16, 20)
    # 20 epochs of 64 samples at 3 passes are 3840, so 677.6 may be evaluation; the test takes
    # 2 x 20 and training cases 16, which leaves 621.6 for looks of 16.
    assert affordable(np.ones(100), of_cases, epochs=20, tests=2) == 38
    # At 8 passes a case they are 448 and 128: 1.79 looks, so as few as can be.
    assert affordable(np.full(100, 8.0), of_cases, epochs=20, tests=2) == 5
    # 200 epochs: 6776.5 - 448 = 6328.5.
    assert affordable(np.full(100, 8.0), of_cases, epochs=200, tests=2) == 49


TRAINED = ("epoch", "train_loss", "lr", "sample_gradients", "gradient_evaluations")
SEEN = ("val_loss", "val_score")


@pytest.mark.parametrize("name", ["adam", "schedule_free_adamw"])
def test_looking_less_often_trains_alike_and_sees_the_same(make_trial, name):
    made = case(make_trial, name, epochs=7)
    every, few = run(made), run(made, looks=3)
    for one, other in zip(every.epochs, few.epochs, strict=True):
        assert [one[k] for k in TRAINED] == [other[k] for k in TRAINED]
        # 7 / 3 = 2.33, 4.67, 7.
        looked = one["epoch"] in (3, 5, 7)
        assert [other[k] for k in SEEN] == ([one[k] for k in SEEN] if looked else [None, None])
    best = max((e for e in few.epochs if e["val_score"] is not None), key=lambda e: e["val_score"])
    assert few.trial["best_epoch"] == best["epoch"]
    assert few.trial["last_test_score"] == every.trial["last_test_score"]
    assert (every.trial["looks"], few.trial["looks"]) == (7, 3)


def test_a_look_after_each_epoch_can_be_said_as_a_number(make_trial):
    made = case(make_trial)
    every, counted = run(made), run(made, looks=3)
    assert counted.metrics == every.metrics
    assert counted.cases == every.cases
    assert timeless(counted.epochs) == timeless(every.epochs)
    assert timeless([counted.trial]) == timeless([every.trial])


def test_patience_counts_looks(make_trial):
    still = Choice(name="sgd", params={"lr": 1e-12})
    row = run(make_trial("segmentation"), optimizer=still, epochs=9, looks=4, patience=2).trial
    # 9 / 4 = 2.25, 4.5, 6.75, 9: looks after 3, 5, 7 and 9 epochs, and the first is never bettered.
    assert (row["best_epoch"], row["epochs_run"]) == (3, 7)


def test_a_trial_goes_on_between_looks(make_trial):
    outcome = same(*case(make_trial, epochs=5, looks=2, patience=1))
    assert [e["val_loss"] is None for e in outcome.epochs] == [True, True, False, True, False]


def test_a_training_that_diverges_between_looks_is_told(make_trial):
    huge = Choice(name="sgd", params={"lr": 1e20})
    outcome = run(case(make_trial, optimizer=huge, epochs=6), looks=1)
    assert outcome.trial["status"] == "diverged"
    assert outcome.trial["epochs_run"] < 6


def test_who_watches_hears_every_epoch_and_the_last_look(make_trial):
    trial, data, base = make_trial("classification", epochs=4, looks=2)
    heard = []
    outcome = run_trial(
        trial, data, base, device=CPU, watch=lambda epoch, score: heard.append((epoch, score))
    )
    seen = {e["epoch"]: e["val_score"] for e in outcome.epochs}
    assert heard == [(1, None), (2, seen[2]), (3, seen[2]), (4, seen[4])]


def test_layers_thaw_where_nobody_looks(make_trial, tmp_path):
    trial, data, base = case(make_trial, epochs=4)
    model = Combination(choices=trial.choices, base=base).model
    torch.save(build_model(model, data.store.path, trial.patch).state_dict(), tmp_path / "own.pt")
    start = InitialWeights(
        label="own",
        file=tmp_path / "own.pt",
        digest=weights_digest(tmp_path / "own.pt"),
        freeze_until="head",
        unfreeze_every=1,
        lower_rate=0.5,
    )
    trial = replace(trial, start=start)
    every, few = run((trial, data, base)), run((trial, data, base), looks=1)
    assert [e["train_loss"] for e in few.epochs] == [e["train_loss"] for e in every.epochs]
