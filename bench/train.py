"""run_trial(): one trial from its first weight to its last test case, read top to bottom.

Knows no Ray. With `world.size` processes (torch.distributed is up) each takes its slice of every
global batch and of every evaluation; one process is the same code with a world of one.
"""

import json
import math
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.flop_counter import FlopCounterMode

from bench.clock import Clock, peak_memory, reset_peak_memory
from bench.datasets import DataSet, open_once
from bench.evaluate import Evaluator, Score, World
from bench.losses import alone, over_processes
from bench.machine import device_name, git_commit, versions
from bench.optimizers import state_bytes
from bench.rows import loss_row, model_row, optimizer_row
from bench.steps import closure_step, plain_step
from bench.study import Trial, trial_columns
from loaders import LOADERS
from loaders.folds import class_weights, normalization
from loaders.sampler import Recipe, Sampler

# The loss is read back this often: each reading makes a GPU wait. A trial that went non-finite is
# noticed at most so many steps late, and its weights are used in neither case. Assumption.
CHECK_EVERY = 32

SOLO = World()
Watch = Callable[[int, float | None], None]


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """All that a trial leaves: rows of the four tables, and example arrays for the report."""

    trial: dict[str, Any]
    metrics: list[dict[str, Any]]
    epochs: list[dict[str, Any]]
    cases: list[dict[str, Any]]
    examples: dict[str, np.ndarray]


def run_trial(
    trial: Trial,
    data: DataSet,
    base: Path,
    *,
    device: torch.device,
    world: World = SOLO,
    watch: Watch | None = None,
) -> Outcome:
    """Train and score one trial.

    `base` is the folder that references in the study start at; `watch(epoch, score)` is told of
    every evaluation. Returns rows with status `ok` or `diverged`; anything else that goes wrong is
    raised, and is the runner's to write down.
    """
    started_at = datetime.now(UTC)
    clock = Clock(device)
    reset_peak_memory(device)

    # ---- set-up: the same weights, samples and draws for every optimizer and loss ----
    with clock.phase("setup"):
        if device.type == "cuda":
            torch.use_deterministic_algorithms(mode=True, warn_only=True)
        store, split = data.store, data.split(trial.repeat, trial.fold)
        optimizer_kind = optimizer_row(trial.optimizer.name, trial.optimizer.params, base).row
        loss_kind = loss_row(trial.loss.name, trial.loss.params, base).row
        criterion = loss_kind.bind(trial.loss.params)
        total = over_processes if world.size > 1 else alone
        hparams = optimizer_kind.settings(trial.optimizer.params)
        stream_seed, weight_seed, step_seed = (
            int(s)
            for s in np.random.SeedSequence([trial.seed, trial.repeat, trial.fold]).generate_state(
                3
            )
        )
        sampler = make_sampler(trial, data, stream_seed)
        torch.manual_seed(weight_seed)
        model = build_model(trial.model.name, base, store.path, trial.patch).to(device)
        flops = flops_per_sample(trial.model.name, base, store.path, trial.patch)
        torch.manual_seed(step_seed + world.rank)
        net: nn.Module = model
        if world.size > 1:
            model = nn.SyncBatchNorm.convert_sync_batchnorm(model)  # type: ignore[no-untyped-call]  # torch's stub lacks it
            net = DistributedDataParallel(model)
        optimizer = optimizer_kind.build(model.parameters(), **hparams)
        weights = None
        if loss_kind.weighted:
            weights = torch.from_numpy(class_weights(store.class_counts, split.train))
            weights = weights.to(device, torch.float32)
        n_train = len(split.train)
        batch = min(trial.batch_size * optimizer_kind.batch_multiple, n_train)
        budget = trial.epochs * n_train
        evaluator = Evaluator(
            trial=trial,
            store=store,
            sampler=sampler,
            model=model,
            criterion=criterion,
            weights=weights,
            device=device,
            world=world,
        )

        def loss_of(image: Tensor, target: Tensor) -> Tensor:
            """Return this process's share of the mean over the global batch, times world.size.

            DDP averages gradients over processes, so that the shares add up to the mean over the
            global batch, however unequal they are.
            """
            values = criterion(net(image), target.long(), weights, total)
            return values.sum() * (world.size / batch)

        make_step = closure_step if optimizer_kind.closure else plain_step
        step = make_step(net, optimizer, loss_of, clock, world.size)
        stream = LOADERS[trial.loader].open(
            store,
            sampler,
            batch_size=batch,
            batches=budget // batch,
            shard=(world.rank, world.size),
            threads=trial.threads,
            device=device,
        )

    # ---- training: to the end of the budget, of patience, or of finite numbers ----
    epochs: list[dict[str, Any]] = []
    spent = evaluations = best_epoch = 0
    best: Score | None = None
    best_state: dict[str, Tensor] = {}
    reached: tuple[float, int] | None = None
    diverged: str | None = None
    stopped = False
    model.train()
    with stream as batches:
        while budget - spent >= batch and not diverged and not stopped:
            # One epoch: n_train sample-gradients, whatever the optimizer does with them.
            goal = min((spent // n_train + 1) * n_train, budget)
            losses: list[Tensor] = []
            before = dict(clock.seconds), spent
            with clock.phase("train"):
                while spent < goal and budget - spent >= batch:
                    image, target = clock.wait(batches)
                    loss, used = step(image, target, (budget - spent) // batch)
                    losses.append(loss)
                    evaluations += used
                    spent += used * batch
                    if len(losses) % CHECK_EVERY == 0 and not bool(torch.isfinite(loss)):
                        break
                train_loss = float(torch.stack(losses).mean())
            epoch = trial.epochs if budget - spent < batch else spent // n_train
            score = None
            if math.isfinite(train_loss):
                with clock.phase("eval"):
                    score = evaluator.score(split.inner, final=False)
                if not math.isfinite(score.loss):
                    diverged = f"the loss on inner validation is not finite at epoch {epoch}"
                elif score.value is None:
                    raise ValueError(
                        f"{trial.primary} is undefined on the inner validation of fold {trial.fold}"
                    )
            else:
                diverged = f"the training loss is not finite at epoch {epoch}"
            train_sec = clock.seconds["train"] - before[0]["train"]
            epochs.append(
                {
                    "epoch": epoch,
                    "train_loss": _finite(train_loss),
                    "val_loss": _finite(score.loss) if score else None,
                    "val_score": score.value if score else None,
                    "lr": float(optimizer.param_groups[0]["lr"]),
                    "sample_gradients": spent,
                    "gradient_evaluations": evaluations,
                    "elapsed_sec": clock.seconds["train"],
                    "samples_per_sec": (spent - before[1]) / train_sec,
                    "data_wait_sec": clock.seconds["data_wait"] - before[0]["data_wait"],
                }
            )
            if watch:
                watch(epoch, score.value if score else None)
            if diverged or score is None:
                break
            if best is None or _better(score, best, trial.stop_on, evaluator.higher_is_better):
                best, best_epoch = score, epoch
                best_state = deepcopy(model.state_dict())
            if reached is None and _hit(score.value, trial.target, evaluator.higher_is_better):
                reached = clock.seconds["train"], spent
            stopped = epoch - best_epoch >= trial.patience

    # ---- test: once, by the weights that inner validation chose ----
    test: Score | None = None
    if best is not None and not diverged:
        with clock.phase("eval"):
            model.load_state_dict(best_state)
            test = evaluator.score(split.test, final=True)

    times = clock.seconds
    row = {
        **trial_columns(trial),
        "batch_size": batch,
        "hparams": json.dumps(hparams, sort_keys=True),
        "status": "diverged" if diverged else "ok",
        "reason": diverged,
        "n_train_cases": n_train,
        "n_val_cases": len(split.inner),
        "n_test_cases": len(split.test),
        "n_train_groups": _count_groups(store.groups, split.train),
        "n_val_groups": _count_groups(store.groups, split.inner),
        "n_test_groups": _count_groups(store.groups, split.test),
        "group_source": store.meta.group_source,
        "epochs_run": epochs[-1]["epoch"],
        "best_epoch": best_epoch or None,
        "gradient_evaluations": evaluations,
        "sample_gradients": spent,
        "val_score": best.value if best else None,
        "test_score": test.value if test else None,
        "test_loss": test.loss if test else None,
        "setup_sec": times["setup"],
        "train_sec": times["train"],
        "data_wait_sec": times["data_wait"],
        "eval_sec": times["eval"],
        "wall_sec": clock.wall(),
        "samples_per_sec": spent / times["train"],
        "voxels_per_sec": spent * math.prod(trial.patch) / times["train"],
        **clock.percentiles(),
        "infer_ms_per_case": test.infer_sec * 1e3 / len(split.test) if test else None,
        "optimizer_state_bytes": state_bytes(optimizer),
        "peak_memory_bytes": peak_memory(device),
        "flops_per_sample": flops,
        "sec_to_target": reached[0] if reached else None,
        "sample_gradients_to_target": reached[1] if reached else None,
        "device_name": device_name(device),
        "device_count": world.size,
        "started_at": started_at,
        "finished_at": datetime.now(UTC),
        "git_commit": git_commit(),
        "versions": json.dumps(versions(), sort_keys=True),
    }
    own = {"trial_id": trial.trial_id}
    return Outcome(
        trial=row,
        metrics=[
            {**own, "split": name, **metric}
            for name, score in (("inner", best), ("test", test))
            if score and not diverged
            for metric in score.metrics
        ],
        epochs=[{**own, **e} for e in epochs],
        cases=[{**own, **c} for c in test.cases] if test else [],
        examples=test.examples if test else {},
    )


def make_sampler(trial: Trial, data: DataSet, seed: int) -> Sampler:
    """Make the sampler of a trial's training part, normalised by what that part alone says."""
    store, train = data.store, data.split(trial.repeat, trial.fold).train
    mean, std = normalization(store.moments, store.meta.normalize, train)
    return Sampler(
        cases=train,
        shapes=store.shapes,
        boxes=store.boxes,
        mean=mean,
        std=std,
        recipe=Recipe(
            patch=trial.patch,
            **{**trial.augment.model_dump(), "flip": (trial.augment.flip,) * len(trial.patch)},
        ),
        seed=seed,
    )


def build_model(name: str, base: Path, store: Path, patch: tuple[int, ...]) -> nn.Module:
    """Build a model for a store; its weights come from torch's random state."""
    meta = open_once(store).meta
    return model_row(name, base).row.build(
        in_channels=len(meta.channels), out_channels=len(meta.classes), dims=meta.dims, patch=patch
    )


@lru_cache
def flops_per_sample(name: str, base: Path, store: Path, patch: tuple[int, ...]) -> float:
    """Count the floating-point operations of one sample-gradient: forward and backward, once.

    Counted on a model of its own, in evaluation mode (batch norm refuses one sample otherwise) and
    with the random state set back, so that counting changes no result.
    """
    with torch.random.fork_rng():
        model = build_model(name, base, store, patch).eval()
        image = torch.zeros(1, len(open_once(store).meta.channels), *patch)
        with FlopCounterMode(display=False) as counter:
            model(image).sum().backward()
    return float(counter.get_total_flops())


def _better(score: Score, best: Score, stop_on: str, higher: bool) -> bool:
    if stop_on == "loss":
        return score.loss < best.loss
    assert score.value is not None
    assert best.value is not None
    return score.value > best.value if higher else score.value < best.value


def _hit(value: float | None, target: float | None, higher: bool) -> bool:
    if value is None or target is None:
        return False
    return value >= target if higher else value <= target


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _count_groups(groups: list[str], cases: np.ndarray) -> int:
    return len({groups[i] for i in cases})
