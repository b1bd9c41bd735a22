"""The bits of short trainings, as hashes: to be compared between two commits in one environment.

Run as `python tests/golden/numerics.py` from the checkout that is asked about; prints JSON, from
the name of a trial to the hash of its final weights, epochs, metrics and per-case rows. Another
processor or another version of torch gives other bits, so no values are kept.
"""

import hashlib
import io
import json
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402  # after the path, as all that follows
import torch  # noqa: E402  # as above

from bench.planning.plan import resolve  # noqa: E402  # as above
from bench.study.schema import parse_study  # noqa: E402  # as above
from bench.training.train import Outcome, run_trial  # noqa: E402  # as above
from tests.golden import made  # noqa: E402  # as above

MODELS = {"images": "plain_cnn", "volumes": "unet_small"}
# A row for each kind of step, and one that averages its weights.
OPTIMIZERS = {
    "plain": "adam",
    "closure": "{lbfgs: {max_iter: 4}}",
    "two_pass": "sam",
    "create_graph": "sophia",
    "averaged": "schedule_free_adamw",
}
LOADERS = ("torch", "dali", "monai")
# What a loader can do that another could do otherwise: rotation (interpolated) only where asked.
AUGMENT = {
    "cut": "{flip: true, translate: 0.2}",
    "turned": "{rotate: 20, zoom: 0.1, noise: 0.1, contrast: 0.1, gamma: 0.1, chance: 0.5}",
}
TIMES = ("_sec", "_ms", "per_sec")
# The id, and columns that came since: other commits do not have them.
NOT_NUMBERS = {"trial_id", "degradation", "headline"}
NOT_NUMBERS |= {"log_odds", "lesion_log_odds", "false_log_odds"}
NOT_NUMBERS |= {"step_loss_sd_diff", "step_norm"}


def study_text(store: str, loader: str, augment: str, folder: Path) -> str:
    """Return a study of every kind of step on one store, by one loader."""
    path = made.make_store(store, folder)
    return f"""
name: numerics
data: [{path}]
models: [{MODELS[store]}]
optimizers: [{", ".join(OPTIMIZERS.values())}]
losses: [ce]
schedules: [cosine]
folds: 2
epochs: 2
batch_size: 4
augment: {AUGMENT[augment]}
loader: {loader}
threads: 1
device: cpu
keep_weights: true
"""


def hash_of(outcome: Outcome) -> str:
    """Return the hash of all of an outcome that is no time of day and no duration."""
    found = hashlib.sha256()
    assert outcome.weights is not None
    for name, value in torch.load(io.BytesIO(outcome.weights), weights_only=True).items():
        found.update(f"{name} {value.dtype}".encode())
        found.update(np.ascontiguousarray(value.numpy()).tobytes())
    for rows in (outcome.epochs, outcome.metrics, outcome.cases):
        for row in rows:
            kept = {
                name: value
                for name, value in sorted(row.items())
                if name not in NOT_NUMBERS and not any(t in name for t in TIMES)
            }
            found.update(repr(kept).encode())
    return found.hexdigest()[:32]


def hashes() -> dict[str, str]:
    """Train each trial for two epochs and return the hash of each."""
    torch.set_num_threads(1)
    found = {}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        for store in MODELS:
            for loader in LOADERS:
                for augment in AUGMENT:
                    text = study_text(store, loader, augment, folder)
                    plan = resolve(parse_study(text, "numerics"), folder, folder / "runs")
                    first = [t for t in plan.trials if t.fold == 0]
                    for trial, step in zip(first, OPTIMIZERS, strict=True):
                        outcome = run_trial(
                            trial, plan.data(store), folder, device=torch.device("cpu")
                        )
                        found[f"{store} {loader} {augment} {step}"] = hash_of(outcome)
    return found


if __name__ == "__main__":
    json.dump(hashes(), sys.stdout, indent=1)
