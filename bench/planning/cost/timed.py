"""The work of one trial on its first batches, to be repeated and timed."""

import itertools
from pathlib import Path

import numpy as np
import torch

from bench.core.gpu.repeatable import repeat
from bench.core.precision import PRECISIONS
from bench.core.processes import World
from bench.losses.supervision import as_target, supervised
from bench.losses.table import alone
from bench.study.components import Combination
from bench.study.dataset import DataSet
from bench.study.tasks import TASKS
from bench.study.trial import Trial
from bench.training.course import spread
from bench.training.evaluate import Evaluator, whole_sides
from bench.training.looks import passes
from bench.training.networks import CHANNELS_LAST, make_network
from bench.training.samples.clinical import Clinical, samples_of
from bench.training.train import make_criterion, make_sampler, seeds_of
from loaders.batches.torch_loader import gather
from loaders.batches.upload import uploaded
from loaders.sampling.sampler import Draws


class Timed:
    """A trial's batches, gradients and evaluations, computed as in the trial without learning.

    `batch` is the number of samples of one gradient.
    """

    def __init__(self, trial: Trial, data: DataSet, base: Path, device: torch.device) -> None:
        """Build its network; `base` is the folder that references in the study are relative to."""
        self._trial, self._device, self._base = trial, device, base
        self._store, self._split = data.store, data.split(trial.repeat, trial.fold)
        self._sampler = make_sampler(trial, data, trial.seed)
        parts = Combination(choices=trial.choices, base=base)
        self.ready()
        row, loss = parts.optimizer.row, parts.loss.row
        self.batch = min(trial.batch_size * row.batch_multiple, len(self._split.train))
        self.model, self._forward = make_network(
            trial,
            parts.model,
            self._store.path,
            device,
            World(),
            seeds_of(trial)[1],
            batch=self.batch,
        )
        criterion = make_criterion(parts.loss, self._store, self._sampler)
        self._optimizer: torch.optim.Optimizer | None = None
        self._number = itertools.count()
        clinical = Clinical.given(trial, self._store, self._split.train)
        image, labels = samples_of(self._store, self._drawn(), device, clinical)
        if trial.channels_last:
            image = image.contiguous(memory_format=CHANNELS_LAST[len(trial.patch)])
        self._image, self._target = image, as_target(uploaded(labels, device))
        classes = len(self._store.meta.classes)
        weights = torch.ones(classes, device=device) if loss.weighted else None
        self._values_of = supervised(criterion, weights, alone)
        self._evaluator = Evaluator(
            trial=trial,
            store=self._store,
            sampler=self._sampler,
            model=self.model,
            criterion=criterion,
            weights=weights,
            device=device,
            world=World(),
            whole=whole_sides(trial, parts.model.row),
            clinical=clinical,
        )
        self._passes = counted(trial, data, whole=self._evaluator.whole is not None)

    def ready(self) -> None:
        """Set up this process to compute as the trial does; another trial may have changed it."""
        if self._device.type == "cuda":
            precision = PRECISIONS[self._trial.precision]
            repeat(tf32=precision.tf32, benchmark=self._trial.cudnn_benchmark)

    def _drawn(self) -> Draws:
        at = next(self._number) * self.batch
        return self._sampler.draw(np.arange(at, at + self.batch))

    def load(self) -> None:
        """Draw, read and augment the next batch."""
        gather(self._store, self._drawn())

    def gradient(self) -> None:
        """Compute the gradient of the first batch."""
        self.model.train()
        self.model.zero_grad()
        with PRECISIONS[self._trial.precision].autocast(self._device):
            given = self._forward(self._image)
        self._values_of(given, self._target).mean().backward()  # type: ignore[no-untyped-call]  # torch's stub lacks it

    def drive_by(self, trial: Trial) -> None:
        """Use the optimizer of a trial of the same model; the first update creates its state."""
        kind = Combination(choices=trial.choices, base=self._base).optimizer
        self._optimizer = kind.row.build(self.model.parameters(), **kind.settings)
        self.update()

    def update(self) -> None:
        """Take one step of the optimizer along the present gradient."""
        assert self._optimizer is not None, "drive_by comes first"
        self._optimizer.step()

    def evaluate(self, cases: int, *, final: bool = False) -> float:
        """Score `cases` cases of inner validation, or all if there are fewer; return their cost.

        The cost is in passes of a patch through the network, as in `counted`. The cases are evenly
        spaced. `final`: with the costly metrics, as in a test.
        """
        inner = self._split.inner
        chosen = spread(inner, min(cases, len(inner)))
        self._evaluator.score(chosen, final=final)
        return float(self._passes[chosen].sum())


def counted(trial: Trial, data: DataSet, *, whole: bool) -> np.ndarray:
    """Return the cost of evaluating each case of a store (n,), in passes of a patch.

    `whole`: images go through the network in one pass.
    """
    if not TASKS[trial.task].windows:
        return np.ones(len(data.store))
    return passes(data.store.shapes, trial.patch, overlap=trial.overlap, whole=whole)
