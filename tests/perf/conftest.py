"""The bare loop that run_trial() is measured against: the same work, and nothing else."""

from time import perf_counter

import pytest
import torch

from bench.losses.table import alone
from bench.study.components import Combination
from bench.training.networks import build_model
from bench.training.train import make_sampler
from loaders.batches.table import LOADERS


@pytest.fixture(autouse=True)
def _forked() -> None:
    """Have processes started anew, as the command does: their start is part of what is measured."""


@pytest.fixture
def bare_loop():
    """Return a function of (trial, data, base) -> samples/s of its training steps."""

    def run(trial, data, base) -> float:
        store = data.store
        sampler = make_sampler(trial, data, seed=0)
        parts = Combination(choices=trial.choices, base=base)
        model = build_model(parts.model, store.path, trial.patch)
        optimizer = parts.optimizer.row.build(model.parameters(), **parts.optimizer.settings)
        criterion = parts.loss.row.bind(parts.loss.settings)
        n_train = len(data.split(trial.repeat, trial.fold).train)
        batches = trial.epochs * n_train // trial.batch_size
        model.train()
        with LOADERS[trial.loader].open(
            store,
            sampler,
            batch_size=trial.batch_size,
            batches=batches,
            threads=trial.threads,
            device=torch.device("cpu"),
        ) as stream:
            start = perf_counter()
            for image, target in stream:
                optimizer.zero_grad(set_to_none=True)
                criterion(model(image), target.long(), None, alone).mean().backward()
                optimizer.step()
            return batches * trial.batch_size / (perf_counter() - start)

    return run
