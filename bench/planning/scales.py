"""The norms of the gradients of a study's losses at the start, on one batch.

At one learning rate, an optimizer whose steps grow with its gradients compares the scales of losses
rather than the losses: a gradient a tenth as long acts like a rate a tenth as high.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from bench.core.precision import PRECISIONS
from bench.core.processes import World
from bench.losses.supervision import as_target, supervised
from bench.losses.table import alone
from bench.planning.plan import Plan
from bench.study.components import Combination
from bench.study.trial import Trial
from bench.training.networks import make_network
from bench.training.samples.clinical import Clinical, samples_of
from bench.training.train import loss_weights, make_criterion, make_sampler, seeds_of


@dataclass(frozen=True, kw_only=True)
class Scales:
    """The gradient's norm (L2, over all parameters) of each loss, for one model on one data set.

    It is measured on the first batch of the first trial, at its initial weights. `scaled` are the
    optimizers whose steps grow with it.
    """

    dataset: str
    model: str
    norms: Mapping[str, float]
    scaled: tuple[str, ...]

    def __str__(self) -> str:
        """Return a sentence that lists the losses from the longest gradient to the shortest."""
        ordered = sorted(self.norms.items(), key=lambda pair: -pair[1])
        found = ", ".join(f"{loss} {norm:.2g}" for loss, norm in ordered)
        said = f"gradient norms at the start, {self.dataset}, {self.model}: {found}"
        low, high = ordered[-1][1], ordered[0][1]
        if len(ordered) < 2 or not self.scaled or not low > 0 or not math.isfinite(high):
            return said
        return (
            f"{said}; they differ by a factor of {high / low:.2g}, and so, at one rate, do the "
            f"steps of {', '.join(self.scaled)}"
        )


def gradient_scales(plan: Plan) -> Iterator[Scales]:
    """Yield the scales of each model on each data set of a plan."""
    kinds: dict[tuple[str, str], list[Trial]] = {}
    for trial in plan.trials:
        kinds.setdefault((trial.dataset, trial.choices["model"].label), []).append(trial)
    for (dataset, model), trials in kinds.items():
        losses: dict[str, Trial] = {}
        scaled: dict[str, None] = {}
        for trial in trials:
            losses.setdefault(trial.choices["loss"].label, trial)
            if not Combination(choices=trial.choices, base=plan.base).own_optimizer.row.scale_free:
                scaled[trial.choices["optimizer"].label] = None
        norms = {loss: gradient_norm(trial, plan) for loss, trial in losses.items()}
        yield Scales(dataset=dataset, model=model, norms=norms, scaled=tuple(scaled))


def gradient_norm(trial: Trial, plan: Plan) -> float:
    """Return the norm of the gradient of a trial's loss at its first weights and first batch.

    The batch has the study's size, even if the optimizer takes larger ones.
    """
    data, device = plan.data(trial.dataset), torch.device(plan.study.device)
    split = data.split(trial.repeat, trial.fold)
    parts = Combination(choices=trial.choices, base=plan.base)
    stream_seed, weight_seed, step_seed = seeds_of(trial)
    plain = replace(trial, compiled=False, cuda_graph=False)
    batch = min(trial.batch_size, len(split.train))
    network, _ = make_network(
        plain, parts.model, data.path, device, World(), weight_seed, batch=batch
    )
    sampler = make_sampler(trial, data, stream_seed)
    clinical = Clinical.given(trial, data.store, split.train)
    image, labels = samples_of(data.store, sampler.draw(np.arange(batch)), device, clinical)
    target = torch.from_numpy(labels).to(device)
    weights = loss_weights(parts.loss.row, data.store, sampler, device)
    torch.manual_seed(step_seed)
    network.train()
    values_of = supervised(make_criterion(parts.loss, data.store, sampler), weights, alone)
    with PRECISIONS[trial.precision].autocast(device):
        given = network(image)
    values_of(given, as_target(target)).mean().backward()  # type: ignore[no-untyped-call]  # torch's stub lacks it
    return float(nn.utils.get_total_norm(_gradients(network)))


def _gradients(network: nn.Module) -> list[Tensor]:
    return [p.grad for p in network.parameters() if p.grad is not None]
