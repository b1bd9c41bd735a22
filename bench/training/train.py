"""run_trial(): one trial from its first weight to its last test case, read top to bottom.

Knows no Ray. With `world.size` processes (torch.distributed is up) each takes its slice of every
global batch and of every evaluation; one process is the same code with a world of one.
"""

import io
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bench.core.environment import device_name, git_commit, versions
from bench.core.precision import PRECISIONS
from bench.core.processes import World
from bench.core.settings import Setting
from bench.core.timing import Clock, peak_memory, reset_peak_memory
from bench.losses.mixup import Mixing
from bench.losses.supervision import supervised
from bench.losses.table import alone, over_processes
from bench.optimizers.averaging import REFRESH_BATCHES, evaluation_weights
from bench.optimizers.schedules import SCHEDULES
from bench.optimizers.spec import state_bytes
from bench.optimizers.steps import STEPS
from bench.study.components import loss_row, model_row, optimizer_row
from bench.study.dataset import DataSet
from bench.study.pretrained import Stages
from bench.study.schema import Trial, trial_columns
from bench.training.evaluate import Evaluator, Score
from bench.training.networks import flops_per_sample
from bench.training.objective import CHANNELS_LAST, Objective, make_network
from loaders.batches.table import LOADERS
from loaders.batches.torch_loader import gather
from loaders.sampling.normalization import class_weights, normalization, value_range
from loaders.sampling.sampler import Recipe, Sampler, batch_positions
from loaders.store.read import Store

# The loss is read back this often: each reading makes a GPU wait. A trial that went non-finite is
# noticed at most so many steps late, and its weights are used in neither case. Assumption.
CHECK_EVERY = 32

SOLO = World()
Watch = Callable[[int, float | None], None]


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """All that a trial leaves: rows of the four tables, example arrays, the weights it chose.

    `weights` is a network's state as torch.save writes it, None where it is not kept.
    """

    trial: dict[str, Any]
    metrics: list[dict[str, Any]]
    epochs: list[dict[str, Any]]
    cases: list[dict[str, Any]]
    examples: dict[str, np.ndarray]
    weights: bytes | None


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
        model_kind = model_row(trial.model.name, trial.model.params, base).row
        optimizer_kind = optimizer_row(trial.optimizer.name, trial.optimizer.params, base).row
        loss_kind = loss_row(trial.loss.name, trial.loss.params, base).row
        criterion = loss_kind.bind(trial.settings("loss"))
        hparams = optimizer_kind.settings(trial.settings("optimizer"))
        factor = SCHEDULES[trial.schedule.name].bind(trial.schedule.params)
        stream_seed, weight_seed, step_seed = (
            int(s)
            for s in np.random.SeedSequence([trial.seed, trial.repeat, trial.fold]).generate_state(
                3
            )
        )
        sampler = make_sampler(trial, data, stream_seed)
        model, forward = make_network(
            trial, model_kind, base, store.path, device, world, weight_seed
        )
        flops = flops_per_sample(
            trial.model.name, trial.settings("model"), base, store.path, trial.patch
        )
        torch.manual_seed(step_seed + world.rank)
        stages = Stages(model, model_kind, trial.start)
        optimizer = optimizer_kind.build(stages.groups(_base_rate(hparams)), **hparams)
        rates = [group.get("lr") for group in optimizer.param_groups]
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
        precision = PRECISIONS[trial.precision]
        objective = Objective(
            forward=forward,
            values_of=supervised(criterion, weights, over_processes if world.size > 1 else alone),
            precision=precision,
            device=device,
            world=world,
            batch=batch,
            memory=CHANNELS_LAST[len(trial.patch)] if trial.channels_last else None,
        )
        step = STEPS[optimizer_kind.step](
            model, optimizer, objective, clock, world.size, precision.scaler(device)
        )
        mixing = Mixing(alpha=trial.mixup, seed=stream_seed, shard=world.shard)
        stream = LOADERS[trial.loader].open(
            store,
            sampler,
            batch_size=batch,
            batches=budget // batch,
            shard=mixing.reads,
            threads=trial.threads,
            device=device,
        )
        refresh = partial(_first_batches, store, sampler, batch, world, device)

    # ---- training: to the end of the budget, of patience, or of finite numbers ----
    epochs: list[dict[str, Any]] = []
    spent = evaluations = best_epoch = 0
    best: Score | None = None
    best_state: dict[str, Tensor] = {}
    reached: tuple[float, int] | None = None
    diverged: str | None = None
    stopped = False
    stages.train()
    with stream as batches:
        while budget - spent >= batch and not diverged and not stopped:
            # One epoch: n_train sample-gradients, whatever the optimizer does with them.
            goal = min((spent // n_train + 1) * n_train, budget)
            losses: list[Tensor] = []
            before = dict(clock.seconds), spent
            with clock.phase("train"):
                while spent < goal and budget - spent >= batch:
                    image, wanted = mixing.apply(*clock.wait(batches))
                    _set_rates(optimizer, rates, factor(spent / budget))
                    loss, used = step(image, wanted, (budget - spent) // batch)
                    losses.append(loss)
                    evaluations += used
                    spent += used * batch
                    if len(losses) % CHECK_EVERY == 0 and not bool(torch.isfinite(loss)):
                        break
                train_loss = float(torch.stack(losses).mean())
            epoch = trial.epochs if budget - spent < batch else spent // n_train
            score = None
            if math.isfinite(train_loss):
                with clock.phase("eval"), evaluation_weights(optimizer, model, refresh):
                    score = evaluator.score(split.inner, final=False)
                    if _is_best(score, best, trial.stop_on, evaluator.higher_is_better):
                        best, best_epoch = score, epoch
                        best_state = deepcopy(model.state_dict())
                stages.train()
                if not math.isfinite(score.loss):
                    diverged = f"the loss on inner validation is not finite at epoch {epoch}"
            else:
                diverged = f"the training loss is not finite at epoch {epoch}"
            train_sec = clock.seconds["train"] - before[0]["train"]
            epochs.append(
                {
                    "epoch": epoch,
                    "train_loss": _finite(train_loss),
                    "val_loss": _finite(score.loss) if score else None,
                    "val_score": score.value if score else None,
                    "lr": _rate(optimizer),
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
            if reached is None and _hit(score.value, trial.target, evaluator.higher_is_better):
                reached = clock.seconds["train"], spent
            stopped = trial.stops and epoch - best_epoch >= trial.patience
            if stages.thaw(epoch):
                objective.share()
                stages.train()

    if best is None and not diverged:
        raise ValueError(
            f"{trial.primary} is undefined on the inner validation of fold {trial.fold}, "
            f"after every one of {len(epochs)} epochs"
        )

    # ---- test: once, by the weights that inner validation chose ----
    test: Score | None = None
    degraded: list[dict[str, Any]] = []
    if best is not None and not diverged:
        with clock.phase("eval"):
            model.load_state_dict(best_state)
            test = evaluator.score(split.test, final=True)
            for worse in trial.degrade:
                found = evaluator.score(split.test, final=True, worse=worse).metrics
                degraded += [{**m, "stratum": worse.label} for m in found if not m["stratum"]]

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
        ]
        + [{**own, "split": "test", **metric} for metric in degraded],
        epochs=[{**own, **e} for e in epochs],
        cases=[{**own, **c} for c in test.cases] if test else [],
        examples=test.examples if test else {},
        weights=_packed(best_state) if trial.keep_weights and test else None,
    )


def make_sampler(trial: Trial, data: DataSet, seed: int) -> Sampler:
    """Make the sampler of a trial's training part, normalised by what that part alone says."""
    store, train = data.store, data.split(trial.repeat, trial.fold).train
    if trial.normalize == "range":
        zeros = store.moments[0] < store.shapes.prod(axis=1, keepdims=True)
        offset, unit = value_range(store.extremes, zeros, store.meta.normalize, train)
    else:
        offset, unit = normalization(store.moments, store.meta.normalize, train)
    return Sampler(
        cases=train,
        shapes=store.shapes,
        boxes=store.boxes,
        offset=offset,
        unit=unit,
        recipe=Recipe(patch=trial.patch, **trial.augment.along(store.meta.axes)),
        balance=store.labels if trial.balance else None,
        # Rotations are in millimetres; a clip turns within its frames, whose pixels are square.
        spacing=None if "t" in store.meta.axes else store.spacing,
        seed=seed,
    )


def _first_batches(
    store: Store, sampler: Sampler, batch: int, world: World, device: torch.device
) -> Iterator[Tensor]:
    """Give this process's share of the first batches of the training stream, once through."""
    for place in range(min(REFRESH_BATCHES, len(sampler.cases) // batch)):
        at = batch_positions(place, batch_size=batch, start=0, shard=world.shard)
        yield torch.from_numpy(gather(store, sampler.draw(at))[0]).to(device)


def _base_rate(hparams: Mapping[str, Setting]) -> float | None:
    rate = hparams.get("lr")
    return rate if isinstance(rate, float) else None


def _set_rates(
    optimizer: torch.optim.Optimizer, rates: Sequence[float | None], factor: float
) -> None:
    for group, rate in zip(optimizer.param_groups, rates, strict=True):
        if rate is not None:
            group["lr"] = rate * factor


def _rate(optimizer: torch.optim.Optimizer) -> float | None:
    """Return the learning rate of the head, None where an optimizer has none."""
    rate = optimizer.param_groups[-1].get("lr")
    return None if rate is None else float(rate)


def _packed(state: dict[str, Tensor]) -> bytes:
    packed = io.BytesIO()
    torch.save({name: value.cpu() for name, value in state.items()}, packed)
    return packed.getvalue()


def _is_best(score: Score, best: Score | None, stop_on: str, higher: bool) -> bool:
    if not math.isfinite(score.loss) or score.value is None:
        return False
    return best is None or _better(score, best, stop_on, higher)


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
