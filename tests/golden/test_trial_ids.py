"""Trial ids are promises: one renamed key in their hash would orphan every run there is.

The values in trial_ids.json stand for ever, or a commit of its own says which change and why (then:
`python -m tests.golden.test_trial_ids`, after reading what it would change).
"""

import hashlib
import json
from pathlib import Path

import pytest
import yaml

from bench.planning.plan import Plan, resolve
from bench.study.ready import READY
from bench.study.schema import load_study, parse_study
from tests.golden.made import STORES, make_store

HERE = Path(__file__).parent
KEPT = HERE / "trial_ids.json"

# One of everything that a study may say, so that every key of the hash is met.
EVERYTHING = """
name: everything
data:
  - {store: STORES/images, epochs: 3, batch_size: 6, target: 0.8, normalize: range}
  - {store: STORES/volumes, patch: [16, 16, 16], augment: {rotate: [10, 5, 5], chance: 0.3}}
models: [{vgg_small: {dropout: 0.1}}, unet_small, {"own.py:Net": {width: 3}}]
optimizers: [adam, {lbfgs: {lr: 0.5, max_iter: 4}}, {"own.py:Slow": {lr: 0.1}}]
losses: [{focal: {gamma: 3.0}}, "own.py:loss"]
schedules: [constant, {one_cycle: {rise: 0.2}}]
regularizers: [none, weight_decay, {mixup: {alpha: 0.4}}, strong_augmentation]
pretrained: [none, {start.pt: {freeze_until: head}}]
seeds: [0, 7]
folds: 2
repeats: 2
split_seed: 3
inner_fraction: 0.3
epochs: 2
augment: {flip: false, scale: 0.2, translate: 0.1}
patience: 4
stop_on: loss
overlap: 0.5
degrade: [noise, {blur: {width: 2.0}}]
primary: {classification: accuracy, segmentation: dice}
precision: bfloat16
channels_last: true
compiled: false
threads: 1
device: cpu
loader: torch
"""
OWN = """
import torch


class Net(torch.nn.Module):
    def __init__(self, in_channels, out_channels, dims, patch, width=2):
        super().__init__()
        self.last = torch.nn.Linear(in_channels, out_channels)

    def forward(self, x):
        return self.last(x.flatten(2).mean(2))


class Slow(torch.optim.SGD):
    def __init__(self, params, lr=0.1, weight_decay=0.0):
        super().__init__(params, lr=lr, weight_decay=weight_decay)


def loss(logits, target):
    return torch.nn.functional.cross_entropy(logits, target)
"""


# Of thousands of ids so many stand one by one, to be looked at; all of them are in the digest.
SHOWN = 60


def ids(plan: Plan) -> dict[str, str]:
    """Return the name of trials and skips -> their ids, and the digest of all."""
    found = {}
    for trial in plan.trials:
        parts = [p for p in trial.combination.values() if p]
        found[f"{' + '.join(parts)}, {trial.repeat}.{trial.fold}.{trial.seed}"] = trial.trial_id
    for skip in plan.skips:
        # Axes that came later say nothing where they are plain.
        own = {"pretrained": "from scratch", **{k: v for k, v in skip.combination.items() if v}}
        parts = [own[column] for column in skip.combination if column in own]
        found[f"skip {' + '.join(parts)}"] = skip.trial_id
    assert len(found) == len(plan.trials) + len(plan.skips)
    digest = hashlib.sha256(json.dumps(found, sort_keys=True).encode()).hexdigest()
    shown = list(found.items())[:: len(found) // SHOWN + 1]
    return {**dict(shown), f"all {len(found)}": digest}


def plan_of(name: str, folder: Path) -> Plan:
    """Return the plan of a ready study, or of EVERYTHING, on the golden stores."""
    for store in STORES:
        make_store(store, folder / "stores")
    (folder / "own.py").write_text(OWN)
    (folder / "start.pt").write_bytes(b"weights, of which the digest alone counts here")
    if name == "everything":
        text = EVERYTHING.replace("STORES", "stores")
    else:
        raw = yaml.safe_load((READY / f"{name}.yaml").read_text(encoding="utf-8"))
        settings = [d if isinstance(d, dict) else {"store": d} for d in raw["data"]]
        # The first data set of a study is replaced by one of the same task.
        kinds = {
            "demo": ["images", "volumes"],
            "hippocampus": ["volumes"],
            "nnunet": ["volumes"],
            "xue_brats": ["volumes"],
            "skalozub_tumours": ["images", "volumes"],
            "skalozub_cine": ["clips"],
        }.get(name, ["images"])
        for data, store in zip(settings, kinds, strict=True):
            data["store"] = f"stores/{store}"
            data.pop("patch", None)
        fixed = {"patch": None, "loader": "torch", "threads": 1, "device": "cpu"}
        text = yaml.safe_dump({**raw, "data": settings, **fixed})
    return resolve(parse_study(text, name), folder, folder / "runs" / name)


NAMES = ["everything", *sorted(path.stem for path in READY.glob("*.yaml"))]


def test_every_ready_study_is_kept():
    assert set(json.loads(KEPT.read_text())) == set(NAMES)
    for name in NAMES[1:]:
        load_study(Path(name))


@pytest.mark.parametrize("name", NAMES)
def test_ids_stand_as_they_are_kept(name, tmp_path):
    assert ids(plan_of(name, tmp_path)) == json.loads(KEPT.read_text())[name]


if __name__ == "__main__":
    import tempfile

    with tempfile.TemporaryDirectory() as scratch:
        kept = {name: ids(plan_of(name, Path(scratch))) for name in NAMES}
    KEPT.write_text(json.dumps(kept, indent=0) + "\n")
