"""A made-up run with every kind of outcome, written through the store like a real one."""

import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from results.tables.schema import TRIALS
from results.tables.store import write_trial

METRICS = {
    "auc": {"direction": "max", "range": [0, 1], "unit": "1"},
    "accuracy": {"direction": "max", "range": [0, 1], "unit": "1"},
    "sensitivity": {"direction": "max", "range": [0, 1], "unit": "1"},
    "specificity": {"direction": "max", "range": [0, 1], "unit": "1"},
    "dice": {"direction": "max", "range": [0, 1], "unit": "1"},
    "hd95": {"direction": "min", "range": [0, None], "unit": "mm"},
}
FOOTER = {
    "git_commit": "0123456789abcdef0123456789abcdef01234567",
    "versions": {"python": "3.11.7", "medoptbench": "0.1.0", "torch": "2.14.1"},
    "device": "NVIDIA H100 80GB HBM3",
    "metrics": METRICS,
    "protocol": {},
}
EPOCHS = 8

# What `bench.study.dataset.described` writes of a store of each task.
DATA = {
    "classification": {
        "kind": "lidc",
        "source": "LIDC-IDRI, doi:10.7937/K9/TCIA.2015.LO9QL9SX",
        "licence": "CC BY 3.0",
        "unit": "lesion",
        "cases": 500,
        "groups": 470,
        "group_source": "patient",
        "channels": ["CT"],
        "classes": [{"name": "benign", "number": 350}, {"name": "malignant", "number": 150}],
        "regions": [],
        "axes": "zyx",
        "shape": [[16, 16, 16], [32, 32, 32], [32, 32, 32]],
        "spacing": [[2.0, 2.0, 2.0], [1.0, 1.0, 1.0], [1.0, 1.0, 1.0]],
    },
    "segmentation": {
        "kind": "brats",
        "source": "Baid et al. 2021, arXiv 2107.02314",
        "licence": "as the source says",
        "unit": "volume",
        "cases": 500,
        "groups": 470,
        "group_source": "patient",
        "channels": ["FLAIR", "T1"],
        "classes": [
            {"name": "background", "number": 900},
            {"name": "necrosis", "number": 20},
            {"name": "oedema", "number": 50},
            {"name": "enhancing", "number": 30},
        ],
        "regions": [
            {"name": "WT", "labels": [1, 2, 3], "cases": 500},
            {"name": "TC", "labels": [1, 3], "cases": 480},
            {"name": "ET", "labels": [3], "cases": 430},
        ],
        "axes": "zyx",
        "shape": [[140, 155, 155], [240, 240, 240], [240, 240, 240]],
        "spacing": [None, None, None],
    },
}


@dataclass(kw_only=True)
class MadeUp:
    """What a made-up run holds. `lead` is added to the first combination of each data set.

    `effect` maps optimizers and losses to what each adds to the scores of all that have it.

    `broken` maps (dataset, optimizer, loss, fold) to the status of that trial; `missing` are left
    out as if not yet run; `skips` maps (dataset, model, optimizer, loss) to a reason.
    """

    datasets: Sequence[tuple[str, str]] = (
        ("lung-nodules", "classification"),
        ("brain-tumours", "segmentation"),
    )
    models: Sequence[str] = ("resnet18",)
    optimizers: Sequence[str] = ("adamw", "sgd", "lbfgs")
    losses: Sequence[str] = ("ce", "focal", "dice_ce")
    seeds: Sequence[int] = (0,)
    folds: int = 5
    lead: float = 0.0
    effect: dict[str, float] = field(default_factory=dict)
    spread: float = 0.02
    noise: float = 0.01
    metric: dict[str, str] = field(
        default_factory=lambda: {"classification": "auc", "segmentation": "dice"}
    )
    broken: dict[tuple[str, str, str, int], str] = field(default_factory=dict)
    missing: set[tuple[str, str, str, int]] = field(default_factory=set)
    skips: dict[tuple[str, str, str, str], str] = field(default_factory=dict)
    degraded: dict[str, float] = field(default_factory=dict)
    columns: dict[str, Any] = field(default_factory=dict)
    data: dict[str, Any] = field(default_factory=lambda: DATA)
    study: dict[str, Any] = field(default_factory=dict)
    with_study: bool = True
    examples: bool = True
    name: str = "made-up"


@pytest.fixture
def make_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Return a function that writes a made-up run (see MadeUp) and returns its folder."""
    # Whether files outlive a power cut is not what these runs are for, and waiting for it is slow.
    monkeypatch.setattr("results.tables.store.os.fsync", lambda _: None)

    def make(folder: str = "run", **options: Any) -> Path:
        return write(tmp_path / folder, MadeUp(**options))

    return make


@pytest.fixture
def make_rows() -> Callable[..., tuple[list[dict[str, Any]], dict[str, Any]]]:
    """Return a function that makes the rows of `trials` and the study of a made-up run."""

    def make(**options: Any) -> tuple[list[dict[str, Any]], dict[str, Any]]:
        made = MadeUp(**options)
        empty = dict.fromkeys(TRIALS.names)
        rows = [empty | trial["trial"] for trial, _ in everything(made)]
        return rows, study(made) if made.with_study else {}

    return make


def study(made: MadeUp) -> dict[str, Any]:
    return {
        "name": made.name,
        "data": [{"store": f"stores/{d}", "name": d, "epochs": None} for d, _ in made.datasets],
        "models": [{"name": m, "params": {}} for m in made.models],
        "optimizers": [{"name": o, "params": {}} for o in made.optimizers],
        "losses": [{"name": f, "params": {}} for f in made.losses],
        "seeds": list(made.seeds),
        "folds": made.folds,
        "repeats": 1,
        "epochs": EPOCHS,
        "patience": 10,
        "stop_on": "score",
        "inner_fraction": 0.2,
        "primary": made.metric,
        "margin": 0.01,
        "alpha": 0.05,
        "device": "cuda",
        "threads": 4,
        "loader": "dali",
        **made.study,
    }


def write(run: Path, made: MadeUp) -> Path:
    run.mkdir(parents=True)
    if made.with_study:
        (run / "study.yaml").write_text(yaml.safe_dump(study(made), sort_keys=False))
    data = {name: made.data[task] for name, task in made.datasets if task in made.data}
    for rows, trial in everything(made):
        write_trial(run, **rows, footer=FOOTER | {"data": data})
        if made.examples and trial and trial.status == "ok":
            trial.leave_examples(run / "examples")
    return run


def everything(made: MadeUp) -> Iterator[tuple[dict[str, Any], "_Trial | None"]]:
    """Yield the rows of each trial, and what made them; of a skip, its row alone."""
    rng = np.random.default_rng(11)
    number = 0
    for dataset, task in made.datasets:
        combinations = list(product(made.models, made.optimizers, made.losses))
        level = {c: 0.86 + made.spread * rng.standard_normal() for c in combinations}
        level[combinations[0]] = max(level.values()) + made.lead
        fold_effect = 0.02 * rng.standard_normal(made.folds)
        for model, optimizer, loss in combinations:
            reason = made.skips.get((dataset, model, optimizer, loss))
            if reason:
                number += 1
                row = {"trial_id": f"t{number:05d}", "study": made.name, "dataset": dataset}
                row |= {"task": task, "model": model, "optimizer": optimizer, "loss": loss}
                row |= {"status": "skipped", "reason": reason}
                yield {"trial": row, "metrics": [], "epochs": [], "cases": []}, None
        for (model, optimizer, loss), fold, seed in product(
            combinations, range(made.folds), made.seeds
        ):
            cell = (dataset, optimizer, loss, fold)
            if (dataset, model, optimizer, loss) in made.skips or cell in made.missing:
                continue
            number += 1
            score = level[model, optimizer, loss] + fold_effect[fold]
            score += made.noise * rng.standard_normal()
            score += made.effect.get(optimizer, 0.0) + made.effect.get(loss, 0.0)
            trial = _Trial(
                made=made,
                dataset=dataset,
                task=task,
                model=model,
                optimizer=optimizer,
                loss=loss,
                fold=fold,
                seed=seed,
                number=number,
                score=min(score, 0.999),
                status=made.broken.get(cell, "ok"),
                rng=rng,
            )
            yield trial.rows(), trial


@dataclass(kw_only=True)
class _Trial:
    made: MadeUp
    dataset: str
    task: str
    model: str
    optimizer: str
    loss: str
    fold: int
    seed: int
    number: int
    score: float
    status: str
    rng: np.random.Generator

    @property
    def trial_id(self) -> str:
        return f"t{self.number:05d}"

    def rows(self) -> dict[str, Any]:
        ok = self.status == "ok"
        price = {"lbfgs": 3.0, "sgd": 0.9}.get(self.optimizer, 1.0) * (
            12.0 + 2.0 * (self.loss == "dice_ce")
        )
        train = price * float(np.exp(0.03 * self.rng.standard_normal()))
        started = datetime(2026, 11, 1, 8, tzinfo=UTC) + timedelta(seconds=20 * self.number)
        metric = self.made.metric[self.task]
        primary = self.score if METRICS[metric]["direction"] == "max" else 20 * (1 - self.score)
        ended = {
            "failed": "RuntimeError: CUDA out of memory",
            "diverged": "the training loss is not finite at epoch 3",
            "dropped": "left behind after epoch 2",
        }
        trial = {
            "study": self.made.name,
            "trial_id": self.trial_id,
            "dataset": self.dataset,
            "task": self.task,
            "model": self.model,
            "optimizer": self.optimizer,
            "loss": self.loss,
            "schedule": "constant",
            "regularizer": "none",
            "loader": "dali",
            "precision": "float32",
            "compiled": False,
            "batch_size": 32,
            "tuned": False,
            "hparams": json.dumps({"lr": 1e-3}),
            "repeat": 0,
            "fold": self.fold,
            "seed": self.seed,
            "status": self.status,
            "reason": ended.get(self.status),
            "attempt": 1,
            "n_train_cases": 320,
            "n_val_cases": 80,
            "n_test_cases": 100,
            "n_train_groups": 300,
            "n_val_groups": 75,
            "n_test_groups": 95,
            "group_source": "patient",
            "epochs_run": EPOCHS,
            "best_epoch": 6,
            "gradient_evaluations": 80,
            "sample_gradients": 320 * EPOCHS,
            "primary_metric": metric,
            "val_score": primary + 0.01 * self.rng.standard_normal() if ok else None,
            "test_score": primary if ok else None,
            "test_loss": 0.3 if ok else None,
            "setup_sec": 0.6,
            "train_sec": train,
            "data_wait_sec": 0.08 * train,
            "eval_sec": 2.5,
            "wall_sec": train + 3.2,
            "samples_per_sec": 320 * EPOCHS / train,
            "voxels_per_sec": 320 * EPOCHS * 4096 / train,
            "step_ms_p50": 12.0,
            "step_ms_p95": 14.0,
            "optimizer_step_ms_p50": {"lbfgs": 5.0, "sgd": 0.4}.get(self.optimizer, 1.1),
            "infer_ms_per_case": 4.0,
            "optimizer_state_bytes": 9_000_000,
            "peak_memory_bytes": 2_400_000_000,
            "device_name": "NVIDIA H100 80GB HBM3",
            "device_count": 1,
            "threads": 4,
            "lane": "lane-0",
            "shared_device": False,
            "started_at": started,
            "finished_at": started + timedelta(seconds=18),
            "git_commit": "0123456789abcdef0123456789abcdef01234567",
            "versions": json.dumps({"torch": "2.14.1"}),
            **self.made.columns,
        }
        if self.status == "failed":
            for column in ("train_sec", "samples_per_sec", "step_ms_p50", "setup_sec"):
                trial[column] = None
        return {
            "trial": trial,
            "metrics": self._metrics() + self._degraded() if ok else [],
            "epochs": self._epochs(primary) if self.status != "failed" else [],
            "cases": self._cases() if ok else [],
        }

    def _metrics(self) -> list[dict[str, Any]]:
        s = self.score
        if self.task == "classification":
            found = {
                "auc": s,
                "accuracy": s - 0.03,
                "sensitivity": s - 0.06,
                "specificity": s - 0.01,
            }
            return [
                {"split": split, "metric": m, "unit": "image", "region": "", "value": v}
                | {"headline": True}
                for split in ("inner", "test")
                for m, v in found.items()
            ]
        return [
            {
                "split": "test",
                "metric": m,
                "unit": "voxel" if m == "dice" else "volume",
                "region": region,
                "convention": convention,
                "headline": region == "mean" and convention in ("skip_empty", None),
                "value": v + shift,
            }
            for m, v, conventions in (
                ("dice", s, ("skip_empty", "empty_is_one")),
                ("hd95", 20 * (1 - s), (None,)),
            )
            for convention in conventions
            for region, shift in (("mean", 0), ("WT", 0.03), ("TC", 0.0), ("ET", -0.03))
        ]

    def _degraded(self) -> list[dict[str, Any]]:
        return [
            {**row, "degradation": label, "value": row["value"] - step}
            for label, step in self.made.degraded.items()
            for row in self._metrics()
            if row["split"] == "test"
        ]

    def _epochs(self, final: float) -> list[dict[str, Any]]:
        last = 3 if self.status == "diverged" else EPOCHS
        start = 0.5 if final < 1 else 15.0
        rows = []
        for epoch in range(1, last + 1):
            value = final + (start - final) * math.exp(-0.6 * epoch)
            value += 0.004 * self.rng.standard_normal()
            lost = self.status == "diverged" and epoch == last
            rows.append(
                {
                    "epoch": epoch,
                    "train_loss": float("nan") if lost else math.exp(-0.3 * epoch),
                    "val_loss": None if lost else math.exp(-0.25 * epoch),
                    "val_score": None if lost else value,
                    "lr": 1e-3,
                    "sample_gradients": 320 * epoch,
                    "gradient_evaluations": 10 * epoch,
                    "elapsed_sec": 1.5 * epoch,
                    "samples_per_sec": 210.0,
                    "data_wait_sec": 0.1,
                }
            )
        return rows

    def _cases(self) -> list[dict[str, Any]]:
        if self.task == "segmentation":
            return [
                {"case_id": f"c{i}", "group_id": f"g{i}", "region": r, "tp": 90, "fp": 8, "fn": 9}
                | {"tn": 4000, "n_ref": 99, "n_pred": 98, "dice": self.score, "hd95_mm": 3.0}
                for i in range(3)
                for r in ("WT", "TC", "ET")
            ]
        return [
            {"case_id": f"c{i}", "group_id": f"g{i}", "region": name, "label": int(i % 2 == k)}
            | {"prob": 0.8 if i % 2 == k else 0.2}
            for i in range(3)
            for k, name in enumerate(("benign", "malignant"))
        ]

    def leave_examples(self, folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        y, x = np.mgrid[:96, :112]
        images, reference, prediction = [], [], []
        for i in range(3):
            head = np.hypot((y - 48) / 40, (x - 56) / 46) < 1
            texture = np.random.default_rng(i).normal(0, 0.15, head.shape)
            tumour = np.hypot(y - 40 - 6 * i, x - 70 + 8 * i)
            images.append(head * (1 + texture + 0.8 * (tumour < 14)) - 1.0 * ~head)
            reference.append((tumour < 14).astype(np.uint8) + (tumour < 7))
            shifted = np.hypot(y - 42 - 6 * i, x - 67 + 8 * i)
            prediction.append((shifted < 13).astype(np.uint8) + (shifted < 6))
        arrays: dict[str, np.ndarray] = {"image": np.array(images, np.float32)}
        if self.task == "segmentation":
            arrays |= {"reference": np.array(reference, np.uint8)}
            arrays |= {"prediction": np.array(prediction, np.uint8)}
        else:
            arrays |= {"label": np.array([0, 1, 0])}
            arrays |= {"prob": np.array([[0.8, 0.2], [0.35, 0.65], [0.45, 0.55]])}
        arrays["case_id"] = np.array(["c0", "c1", "c2"])
        np.savez_compressed(folder / f"{self.trial_id}.npz", **arrays)  # type: ignore[arg-type]  # numpy's stub mistakes the keywords
