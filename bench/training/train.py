"""run_trial(): one trial from its first weight to its last test case, read top to bottom.

It knows nothing of Ray. With several processes (`world.size`, and torch.distributed initialised)
each takes its slice of every global batch and of every evaluation; a single process runs the same
code with a world of one.
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
from torch import Tensor, nn

from bench.core.environment import device_name, git_commit, versions
from bench.core.gpu.repeatable import repeat
from bench.core.precision import PRECISIONS
from bench.core.processes import World
from bench.core.settings import Setting
from bench.core.timing import Clock, reset_peak_memory
from bench.losses.mixup import Mixing
from bench.losses.objective import Objective
from bench.losses.supervision import ignoring, rescaled, supervised
from bench.losses.table import LOSSES, Criterion, Loss, alone, over_processes
from bench.optimizers.averaging import REFRESH_BATCHES, MovingAverage, evaluation_weights
from bench.optimizers.spec import state_bytes
from bench.optimizers.steps import STEPS, StepParts
from bench.study.components import Combination, Component
from bench.study.dataset import DataSet
from bench.study.tasks import TASKS
from bench.study.trial import Trial, trial_columns
from bench.training.course import StepNorms, loss_swing, spread
from bench.training.evaluate import Evaluator, Score, whole_sides
from bench.training.examples import packed
from bench.training.looks import due
from bench.training.networks import CHANNELS_LAST, flops_per_sample, make_network
from bench.training.samples.clinical import Clinical, samples_of
from bench.training.samples.labels import of_odds, taught
from bench.training.state import BestEpoch, Checkpoint, TargetReached, TrainingState
from bench.training.transfer import LayerGroups
from loaders.batches.drawn import class_counts
from loaders.batches.shelf import Shelf
from loaders.batches.table import LOADERS
from loaders.sampling.foreground import Foreground
from loaders.sampling.normalization import normalization, value_range
from loaders.sampling.sampler import Recipe, Sampler, batch_positions, batch_shares
from loaders.store.read import Store

# The loss is read back once in this many steps, since each reading makes a GPU wait. So a loss that
# is not finite is noticed at most this many steps late; its weights are not used anyway.
# Assumption.
CHECK_EVERY = 32

SOLO = World()
# Voxels along each side of the sample that a loss is tried on before timing starts (assumption).
_MADE_SIDE = 8
Watch = Callable[[int, float | None], None]


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """The results of a trial: rows of the four tables, example arrays, the weights it chose.

    `examples` is an .npz, None if there are none; `weights` is the network's state as torch.save
    writes it, None if the trial does not keep it.
    """

    trial: dict[str, Any]
    metrics: list[dict[str, Any]]
    epochs: list[dict[str, Any]]
    cases: list[dict[str, Any]]
    examples: bytes | None
    weights: bytes | None


def run_trial(
    trial: Trial,
    data: DataSet,
    base: Path,
    *,
    device: torch.device,
    world: World = SOLO,
    watch: Watch | None = None,
    resume: bytes | None = None,
    checkpoint: Checkpoint | None = None,
    shelf: Shelf | None = None,
) -> Outcome:
    """Train and score one trial.

    `base` is the folder that references in the study are relative to. `watch(epoch, score)` is
    called after every epoch, with the score of the last look at inner validation.

    `checkpoint(state)` is called after every epoch, including the last. `state.to_bytes()`, called
    before it returns, gives a value for `resume`: the trial then resumes after that epoch as if it
    had not stopped, with the same samples, draws and bits. Its times are those of both parts
    together, without the pause between them; `started_at` is that of the first part.

    With several processes, each must be given the same `resume`. Batches are shared with other
    processes through `shelf`; nothing but times depends on it.

    Returns rows with status `ok` or `diverged`. Any other failure is raised, for the runner to
    record: StoreError if the store has changed since it was prepared, for instance. Raises
    StateRefused if `resume` is not the state of this trial.
    """
    started_at = datetime.now(UTC)
    clock = Clock(device)
    reset_peak_memory(device)

    # ---- set-up: the same weights, samples and draws for every optimizer and loss ----
    with clock.phase("setup"):
        precision = PRECISIONS[trial.precision]
        unrepeatable = (
            repeat(tf32=precision.tf32, benchmark=trial.cudnn_benchmark)
            if device.type == "cuda"
            else None
        )
        store, split = data.store, data.split(trial.repeat, trial.fold)
        store.check()
        combination = Combination(choices=trial.choices, base=base, drawn=trial.drawn)
        model_kind, optimizer_kind = combination.model.row, combination.optimizer.row
        settings = combination.optimizer.settings
        factor = combination.schedule.row.bind(combination.schedule.settings)
        stream_seed, weight_seed, step_seed = seeds_of(trial)
        learned = taught(store, split.train, trial, stream_seed)
        sampler = make_sampler(trial, data, stream_seed, learned.labels)

        def criterion_at(epoch: int = 0) -> Criterion:
            made = make_criterion(combination.loss, store, sampler, epoch=epoch)
            return of_odds(made) if trial.readers == "soft" else made

        criterion = criterion_at()
        clinical = Clinical.given(trial, store, split.train)
        n_train = len(split.train)
        at_once = trial.batch_size * optimizer_kind.batch_multiple
        batch = min(at_once * trial.accumulate, n_train)
        chunks = math.ceil(batch / at_once)
        shares = batch_shares(batch, shard=world.shard, chunks=chunks)
        model, forward = make_network(
            trial,
            combination.model,
            store.path,
            device,
            world,
            weight_seed,
            batch=shares[0].stop - shares[0].start,
        )
        flops = flops_per_sample(combination.model, store.path, trial.patch)
        torch.manual_seed(step_seed + world.rank)
        layers = LayerGroups(model, model_kind, trial.start)
        optimizer = optimizer_kind.build(
            layers.groups(
                _base_rate(settings),
                decay_norms=trial.decay_norms or not settings.get("weight_decay"),
            ),
            **settings,
        )
        rates = [group.get("lr") for group in optimizer.param_groups]
        weights = loss_weights(combination.loss.row, learned, sampler, device)
        total = over_processes if world.size > 1 else alone
        derive = combination.loss.row.derive and partial(
            combination.loss.row.derive,
            classes=len(store.meta.classes),
            **_spaced(combination.loss, store, sampler.cases),
        )
        if LOSSES.get(combination.loss.row.name) is combination.loss.row:
            made = make_criterion(combination.loss, store, sampler)
            _import_loss(made, derive, store, weights, device)
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
            whole=whole_sides(trial, model_kind),
            clinical=clinical,
        )
        higher = evaluator.higher_is_better
        objective = Objective(
            forward=forward,
            values_of=supervised(criterion, weights, total),
            precision=precision,
            device=device,
            world=world,
            batch=batch,
            memory=CHANNELS_LAST[len(trial.patch)] if trial.channels_last else None,
        )
        parts = StepParts(
            network=model,
            optimizer=optimizer,
            loss_of=objective,
            clock=clock,
            processes=world.size,
            scaler=precision.scaler(device),
            clip=trial.clip,
            chunks=[share.stop - share.start for share in shares],
        )
        average = None if trial.ema is None else MovingAverage(model, trial.ema)
        step = STEPS[optimizer_kind.step](parts)
        step = step if average is None else average.following(step)
        norms = StepNorms(list(model.parameters()))
        mixing = Mixing(alpha=trial.mixup, seed=stream_seed, shard=world.shard, chunks=chunks)
        refresh = partial(_first_batches, store, sampler, batch, world, device, clinical)
        state = TrainingState(
            trial_id=trial.trial_id,
            world=world,
            device=device,
            started_at=started_at,
            parts=parts,
            layers=layers,
            average=average,
        )
        if resume is not None:
            state.load(resume)
            objective.share()
        stream = LOADERS[trial.loader].open(
            learned,
            sampler,
            derive=derive,
            batch_size=batch,
            batches=budget // batch - state.batches,
            start=state.batches * batch,
            shard=mixing.reads,
            chunks=chunks,
            threads=trial.threads,
            device=device,
            shelf=shelf,
        )

    # ---- training: to the end of the budget, of patience, or of finite numbers ----
    layers.train()
    with stream as batches:
        while budget - state.spent >= batch and not state.diverged and not state.stopped:
            # One epoch: n_train sample-gradients, whatever the optimizer does with them.
            goal = min((state.spent // n_train + 1) * n_train, budget)
            of_epoch = criterion_at(epoch=state.spent // n_train)
            objective.values_of = supervised(of_epoch, weights, total)
            losses: list[Tensor] = []
            spent_before, seconds_before = state.spent, dict(clock.seconds)
            with clock.phase("train"):
                while state.spent < goal and budget - state.spent >= batch:
                    image, target, derived = clock.wait(batches)
                    if clinical is not None:
                        cases = sampler.drawn(
                            batch_positions(
                                state.batches,
                                batch_size=batch,
                                start=0,
                                shard=mixing.reads,
                                chunks=chunks,
                            )
                        )
                        image = clinical.beside(image, cases)
                    image, wanted = mixing.apply(image, target, state.batches, derived)
                    _set_rates(optimizer, rates, factor(state.spent / budget, batch / budget))
                    norms.before(len(losses))
                    loss, used = step(image, wanted, (budget - state.spent) // batch)
                    norms.after()
                    losses.append(loss)
                    state.batches += 1
                    state.evaluations += used
                    state.spent += used * batch
                    if len(losses) % CHECK_EVERY == 0 and not bool(torch.isfinite(loss)):
                        break
                train_loss = float(torch.stack(losses).mean())
                swing, step_norm = loss_swing(losses), norms.taken()
            # An epoch that broke off before its goal counts as reached.
            whole = max(state.spent, goal) // n_train
            epoch = trial.epochs if budget - state.spent < batch else whole
            before = state.epochs[-1]["epoch"] if state.epochs else 0
            score = None
            if math.isfinite(train_loss) and due(
                before, epoch, looks=trial.looks, epochs=trial.epochs
            ):
                judged = evaluation_weights(optimizer, model, refresh, average)
                with clock.phase("eval"), judged:
                    score = evaluator.score(split.inner, final=False)
                    state.best = _best_epoch(state.best, epoch, score, model, trial.stop_on, higher)
            state.diverged = _divergence(epoch, train_loss, score)
            state.epochs.append(
                {
                    "epoch": epoch,
                    "train_loss": _finite(train_loss),
                    "val_loss": _finite(score.loss) if score else None,
                    "val_score": score.value if score else None,
                    "lr": _rate(optimizer),
                    "sample_gradients": state.spent,
                    "gradient_evaluations": state.evaluations,
                    "elapsed_sec": clock.seconds["train"],
                    "samples_per_sec": (state.spent - spent_before)
                    / (clock.seconds["train"] - seconds_before["train"]),
                    "data_wait_sec": clock.seconds["data_wait"] - seconds_before["data_wait"],
                    "step_loss_sd_diff": swing,
                    "step_norm": step_norm,
                }
            )
            looks = [row for row in state.epochs if row["val_loss"] is not None]
            if watch:
                watch(epoch, looks[-1]["val_score"] if looks else None)
            if score is not None and not state.diverged:
                if _hit(score.value, trial.target, higher):
                    state.reached = state.reached or TargetReached(
                        train_sec=clock.seconds["train"], sample_gradients=state.spent
                    )
                best_epoch = state.best.epoch if state.best else 0
                # Looks, not epochs: one step of L-BFGS may spend 20 epochs, and gets one look.
                worse = sum(row["epoch"] > best_epoch for row in looks)
                state.stopped = trial.stops and worse >= trial.patience
            if not state.diverged and layers.thaw(epoch):
                objective.share()
            layers.train()
            if checkpoint:
                checkpoint(state)

    best, diverged = state.best, state.diverged

    # ---- test: once, with the weights that inner validation chose. For information only: the last
    # weights, also on training cases; and after divergence, the weights chosen before it. Never for
    # a point of a search ----
    last = best is not None and best.epoch == state.epochs[-1]["epoch"]
    final: Score | None = None
    seen: Score | None = None
    if not diverged and not trial.inner_only:
        judged = evaluation_weights(optimizer, model, refresh, average)
        with clock.phase("eval"), judged:
            seen = evaluator.score(spread(split.train, len(split.inner)), final=False)
            # Only the primary metric of the last weights is kept.
            final = None if last else evaluator.score(split.test, final=False)
    chosen: Score | None = None
    degraded: list[dict[str, Any]] = []
    if best is not None and not trial.inner_only:
        with clock.phase("eval"):
            model.load_state_dict(best.weights)
            chosen = evaluator.score(split.test, final=not diverged)
            degraded = [] if diverged else _on_worse_images(evaluator, split.test, trial)
    test = None if diverged else chosen
    final = test if last else final

    times = clock.seconds
    row = {
        **trial_columns(trial),
        "batch_size": batch,
        "hparams": settings_as_json(settings),
        "weight_decay_kind": optimizer_kind.decay,
        "status": "diverged" if diverged else "ok",
        "reason": diverged,
        "n_train_cases": n_train,
        "n_val_cases": len(split.inner),
        "n_test_cases": len(split.test),
        "n_train_groups": _count_groups(store.groups, split.train),
        "n_val_groups": _count_groups(store.groups, split.inner),
        "n_test_groups": _count_groups(store.groups, split.test),
        "group_source": store.meta.group_source,
        "epochs_run": state.epochs[-1]["epoch"],
        "best_epoch": best.epoch if best else None,
        "gradient_evaluations": state.evaluations,
        "sample_gradients": state.spent,
        "val_score": best.value if best else None,
        "test_score": test.value if test else None,
        "test_loss": test.loss if test else None,
        "last_val_score": state.epochs[-1]["val_score"] if test else None,
        "last_test_score": final.value if final else None,
        "test_score_before_diverging": chosen.value if chosen and diverged else None,
        "last_train_score": seen.value if seen and test else None,
        "parameters": sum(p.numel() for p in model.parameters()),
        "setup_sec": times["setup"],
        "train_sec": times["train"],
        "data_wait_sec": times["data_wait"],
        "eval_sec": times["eval"],
        "wall_sec": clock.wall(),
        "samples_per_sec": state.spent / times["train"],
        "voxels_per_sec": state.spent * math.prod(trial.patch) / times["train"],
        **clock.percentiles(),
        "infer_ms_per_case": test.infer_sec * 1e3 / len(split.test) if test else None,
        "optimizer_state_bytes": state_bytes(optimizer),
        "peak_memory_bytes": state.peak_memory(),
        # A clock measures one GPU, not those of other processes.
        "energy_joules": clock.joules() if world.size == 1 else None,
        "flops_per_sample": flops,
        "sec_to_target": state.reached.train_sec if state.reached else None,
        "sample_gradients_to_target": state.reached.sample_gradients if state.reached else None,
        "device_name": device_name(device),
        "device_count": world.size,
        "started_at": state.started_at,
        "finished_at": datetime.now(UTC),
        "git_commit": git_commit(),
        "versions": json.dumps(versions(), sort_keys=True),
        "unrepeatable": None if unrepeatable is None else " ".join(sorted(unrepeatable)),
    }
    own = {"trial_id": trial.trial_id}
    return Outcome(
        trial=row,
        metrics=[
            {**own, "split": name, **metric}
            for name, scored in (("inner", best), ("test", test))
            if scored and not diverged
            for metric in scored.metrics
        ]
        + [{**own, "split": "test", **metric} for metric in degraded],
        epochs=[{**own, **e} for e in state.epochs],
        cases=[{**own, **c} for c in test.cases] if test else [],
        examples=packed(test.examples) if test else None,
        weights=_packed(best.weights) if trial.keep_weights and best and test else None,
    )


def seeds_of(trial: Trial) -> tuple[int, int, int]:
    """Return the seeds of a trial's samples, its initial weights, and the draws of its steps."""
    drawn = np.random.SeedSequence([trial.seed, trial.repeat, trial.fold]).generate_state(3)
    stream, weights, steps = (int(s) for s in drawn)
    return stream, weights, steps


def _on_worse_images(evaluator: Evaluator, cases: np.ndarray, trial: Trial) -> list[dict[str, Any]]:
    """Return the rows of `metrics` on degraded images, for each degradation by itself."""
    rows = []
    for worse in trial.degrade:
        found = evaluator.score(cases, final=True, worse=worse).metrics
        rows += [{**m, "degradation": worse.label} for m in found if not m["stratum"]]
    return rows


def loss_weights(loss: Loss, store: Store, sampler: Sampler, device: torch.device) -> Tensor | None:
    """Return the weights or counts (n_classes,) of drawn samples that a loss takes, or None."""
    if not loss.weighted:
        return None
    found = TASKS[store.meta.task].weights(store, sampler)  # FoldError if a class is absent
    weights = torch.from_numpy(class_counts(store, sampler) if loss.counted else found)
    return weights.to(device, torch.float32)


def make_criterion(
    loss: Component[Loss], store: Store, sampler: Sampler, *, epoch: int = 0
) -> Criterion:
    """Return a loss with its settings, which scales targets as this training learns them.

    The settings are those of an epoch of training, counted from 0: evaluation uses the first's.
    """
    spaced = _spaced(loss, store, sampler.cases)
    criterion: Criterion = partial(loss.row.bind(loss.row.at(loss.settings, epoch)), **spaced)
    if store.meta.ignored is not None:
        criterion = ignoring(loss.row, criterion, store.meta.ignored)
    scale = TASKS[store.meta.task].scale(store, sampler.cases)
    return criterion if scale is None else rescaled(criterion, scale.learned)


def _import_loss(
    criterion: Criterion,
    derive: Callable[..., Tensor] | None,
    store: Store,
    weights: Tensor | None,
    device: torch.device,
) -> None:
    """Compute a loss of the table once on a made-up sample, so that its imports are done.

    MONAI's import takes 2 to 5 s (measured), which would count as training time.
    """
    task, classes = TASKS[store.meta.task], len(store.meta.classes)
    shape = 2, classes, *((_MADE_SIDE,) * store.meta.dims if task.windows else ())
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        target = task.target(shape)
        criterion(torch.zeros(shape, device=device), target.to(device), weights, alone)
        if derive is not None:
            derive(target)


def _spaced(loss: Component[Loss], store: Store, cases: np.ndarray) -> dict[str, Any]:
    """Return the spacing for a loss in mm: the median of these cases along each axis.

    It is the same for all, since networks see voxels: if cases differ, distances use the median.
    """
    if not (loss.row.spaced and loss.settings["mm"]):
        return {}
    return {"spacing": tuple(np.median(store.spacing[cases], axis=0).tolist())}


def make_sampler(
    trial: Trial, data: DataSet, seed: int, labels: np.ndarray | None = None
) -> Sampler:
    """Make the sampler of a trial's training part, normalised by that part's own statistics.

    `labels` (n,) are the answers that it trains on, None for the store's.
    """
    store, train = data.store, data.split(trial.repeat, trial.fold).train
    if trial.normalize == "range":
        zeros = store.moments[0] < store.shapes.prod(axis=1, keepdims=True)
        offset, unit = value_range(store.extremes, zeros, store.meta.normalize, train)
    else:
        offset, unit = normalization(store.moments, store.meta.normalize, train)
    return Sampler(
        cases=train,
        shapes=store.shapes,
        foreground=Foreground(
            mask=store.mask, boxes=store.boxes, regions=tuple(store.meta.regions.values())
        )
        if store.meta.masked
        else None,
        offset=offset,
        unit=unit,
        recipe=Recipe(patch=trial.patch, **trial.augment.along(store.meta.axes)),
        balance=(store.labels if labels is None else labels) if trial.balance else None,
        # Rotations are in millimetres; a clip turns within its frames, whose pixels are square.
        spacing=None if "t" in store.meta.axes else store.spacing,
        seed=seed,
    )


def _first_batches(
    store: Store,
    sampler: Sampler,
    batch: int,
    world: World,
    device: torch.device,
    clinical: Clinical | None,
) -> Iterator[Tensor]:
    """Yield this process's share of each of the first batches of the training stream."""
    for place in range(min(REFRESH_BATCHES, len(sampler.cases) // batch)):
        at = batch_positions(place, batch_size=batch, start=0, shard=world.shard)
        yield samples_of(store, sampler.draw(at), device, clinical)[0]


def _base_rate(settings: Mapping[str, Setting]) -> float | None:
    rate = settings.get("lr")
    return rate if isinstance(rate, float) else None


def settings_as_json(settings: Mapping[str, Setting]) -> str:
    """Return settings as a JSON object, infinite values as texts, since JSON has none."""
    infinite = {k: str(v) for k, v in settings.items() if isinstance(v, float) and math.isinf(v)}
    return json.dumps({**settings, **infinite}, sort_keys=True)


def _set_rates(
    optimizer: torch.optim.Optimizer, rates: Sequence[float | None], factor: float
) -> None:
    for group, rate in zip(optimizer.param_groups, rates, strict=True):
        if rate is not None:
            group["lr"] = rate * factor


def _rate(optimizer: torch.optim.Optimizer) -> float | None:
    """Return the learning rate of the head, None if the optimizer has none."""
    rate = optimizer.param_groups[-1].get("lr")
    return None if rate is None else float(rate)


def _packed(state: dict[str, Tensor]) -> bytes:
    packed = io.BytesIO()
    torch.save({name: value.cpu() for name, value in state.items()}, packed)
    return packed.getvalue()


def _divergence(epoch: int, train_loss: float, score: Score | None) -> str | None:
    """Return the sentence that says which loss is not finite after an epoch, None if none is."""
    if not math.isfinite(train_loss):
        return f"the training loss is not finite at epoch {epoch}"
    if score is not None and not math.isfinite(score.loss):
        return f"the loss on inner validation is not finite at epoch {epoch}"
    return None


def _best_epoch(
    best: BestEpoch | None, epoch: int, score: Score, model: nn.Module, stop_on: str, higher: bool
) -> BestEpoch | None:
    """Return this epoch, with the weights of `model`, if it is better than `best`; else `best`."""
    if not math.isfinite(score.loss):
        return best
    if best is not None and not _better(score, best, stop_on, higher):
        return best
    return BestEpoch(
        epoch=epoch,
        loss=score.loss,
        value=score.value,
        decides=score.decides,
        false_alarm=score.false_alarm,
        metrics=score.metrics,
        weights=deepcopy(model.state_dict()),
    )


def _better(score: Score, best: BestEpoch, stop_on: str, higher: bool) -> bool:
    if stop_on == "loss":
        return score.loss < best.loss
    if not (score.decides and best.decides):
        # The primary metric cannot decide: compare false alarms, then the loss.
        return (score.false_alarm or 0.0, score.loss) < (best.false_alarm or 0.0, best.loss)
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
