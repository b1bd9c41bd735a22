"""The papers' ready studies: each plans and trains on phantoms in the formats it is made for."""

import math
from collections import Counter
from pathlib import Path

import pytest
import torch
import yaml

from bench import api
from bench.planning.plan import Plan, resolve
from bench.study.ready import READY
from bench.study.schema import parse_study
from bench.training.train import run_trial
from loaders.phantoms.make import make_brats, make_lidc
from tests.loaders.phantoms.cine_loops import make_cine
from tests.loaders.phantoms.pictures import make_skin, make_xray

# Study -> stores: kind, how its phantom is made, and the settings that the study's head names, with
# sides that are small.
SLICES = {"view": "slice", "patch": [64, 64], "spacing": [0, 0, 0]}
NIH = {"label": "Finding Labels", "finding": "Effusion", "group": "Patient ID", "size": 32}
ISIC = {"label": "diagnosis", "finding": "melanoma", "group": "patient_id", "size": 32}
LOOPS = {"label": "beat", "positive": "fast relaxation", "group": "patient", "frames": 6}
NODULES = {"task": "malignancy", "patch": [8, 16, 16], "indeterminate": "benign"}
STORES = {
    "xue_lidc": {"lidc": ("lidc", make_lidc, {"patients": 12}, SLICES)},
    "xue_brats": {"brats": ("brats", make_brats, {"patients": 10}, {})},
    "skalozub_xray": {"xray": ("images", make_xray, {"pictures": 60}, NIH)},
    "skalozub_tumours": {
        "nodules": ("lidc", make_lidc, {"patients": 12}, NODULES),
        "brats": ("brats", make_brats, {"patients": 10}, {}),
    },
    "skalozub_cine": {"cine": ("cine", make_cine, {"loops": 30}, LOOPS)},
    "skalozub_skin": {"skin": ("images", make_skin, {"pictures": 60}, ISIC)},
}
# What is made small: a study's keys, and those of its data sets.
SMALL = {
    "xue_lidc": {"patch": [64, 64], "batch_size": 4},
    "xue_brats": {"patch": [16, 16, 16]},
    "skalozub_xray": {"patch": [32, 32]},
    "skalozub_tumours": {},
    "skalozub_cine": {},
    "skalozub_skin": {"patch": [32, 32]},
}
SIX = {"sgd", "adagrad", "rmsprop", "adam", "adamw", "lbfgs"}


@pytest.fixture(scope="module")
def stores(tmp_path_factory) -> Path:
    """Return a folder in which stores of all phantoms stand."""
    folder = tmp_path_factory.mktemp("papers")
    patch = pytest.MonkeyPatch()
    patch.setenv("MEDOPT_KEY", "test")
    for of_study in STORES.values():
        for name, (kind, make, size, options) in of_study.items():
            scans = folder / "scans" / f"{make.__name__}"
            if not scans.exists():
                make(scans, seed=3, **size)
            if not (folder / "stores" / name).exists():
                out = folder / "stores" / name
                api.prepare(kind, scans, out=out, options=options, workers=1)
    patch.undo()
    return folder


def small_study(name: str) -> str:
    raw = yaml.safe_load((READY / f"{name}.yaml").read_text(encoding="utf-8"))
    raw |= {"epochs": 1, "folds": 2, "threads": 1, "device": "cpu", "overlap": 0.0, **SMALL[name]}
    for data in raw["data"]:
        if isinstance(data, dict) and "patch" in data:
            data["patch"] = [16, 16, 16]
    return yaml.safe_dump(raw)


def plan_of(name: str, folder: Path) -> Plan:
    return resolve(parse_study(small_study(name), name), folder, folder / "runs" / name)


@pytest.mark.parametrize("name", STORES)
def test_the_study_plans_on_its_phantoms(stores, name):
    plan = plan_of(name, stores)
    combinations = {tuple(t.combination.values()) for t in plan.trials}
    by_data = Counter(dataset for dataset, *_ in combinations)
    asked = yaml.safe_load((READY / f"{name}.yaml").read_text(encoding="utf-8"))
    everything = math.prod(
        len(asked[axis]) for axis in ("models", "optimizers", "losses", "regularizers")
    )
    assert set(by_data) == {data.name for data in plan.sets}
    if name.startswith("xue"):
        # 2 x 2 x 2, nothing skipped.
        assert (everything, list(by_data.values()), plan.skips) == (8, [8], ())
    else:
        assert {t.choices["optimizer"].name for t in plan.trials} == SIX
        assert len({t.choices["regularizer"].name for t in plan.trials}) == len(
            asked["regularizers"]
        )
    # Nothing is skipped but networks for the other task, and L-BFGS with a decay of its own.
    for skip in plan.skips:
        lbfgs = skip.combination["optimizer"] == "lbfgs"
        assert " is for " in skip.reason or (lbfgs and "weight_decay" in skip.reason)


# One kind of data; `make test-all` trains the others.
@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=pytest.mark.slow if n != "skalozub_skin" else ()) for n in STORES],
)
def test_the_study_trains_on_its_phantoms(stores, name):
    """The first and the last combination of each data set and model, for one epoch."""
    plan = plan_of(name, stores)
    chosen = {}
    for trial in plan.trials:
        kind = trial.dataset, trial.choices["model"].name
        chosen.setdefault((*kind, "first"), trial)
        if trial.fold == 0:
            chosen[(*kind, "last")] = trial
    for trial in chosen.values():
        outcome = run_trial(trial, plan.data(trial.dataset), plan.base, device=torch.device("cpu"))
        assert outcome.trial["status"] == "ok", outcome.trial["reason"]
        assert outcome.trial["test_score"] is not None


def test_before_and_after_differ_in_structure_loss_and_augmentation_alone(stores):
    """Xue's protocol stands in the study: Adam 1e-3, 512 x 512, batch 32, 5 folds, patience 10."""
    study = yaml.safe_load((READY / "xue_lidc.yaml").read_text(encoding="utf-8"))
    assert study["optimizers"] == [{"adam": {"lr": 0.001}}]
    assert (study["patch"], study["batch_size"], study["folds"]) == ([512, 512], 32, 5)
    assert (study["stop_on"], study["patience"]) == ("loss", 10)
    plan = plan_of("xue_lidc", stores)
    drawn = {t.choices["regularizer"].name: t.augment for t in plan.trials}
    still = drawn["none"].model_dump()
    assert {k for k, v in still.items() if v} == {"foreground", "chance"}
    moved = drawn["augmentation"].model_dump()
    changed = {k for k in moved if moved[k] != still[k]}
    assert changed == {"flip", "rotate", "zoom", "translate", "chance"}
