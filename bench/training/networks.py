"""The networks of trials: built for a store, counted, shared, compiled once per process."""

from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.flop_counter import FlopCounterMode

from bench.core.gpu import graph
from bench.core.precision import PRECISIONS
from bench.core.processes import World
from bench.core.references import StudyError, failure, said
from bench.losses.reductions import over_processes
from bench.losses.supervision import logits_of
from bench.study.components import MODEL_WANTED, Component
from bench.study.dataset import open_once
from bench.study.trial import Trial
from bench.training.samples.clinical import LateFusion, width
from bench.training.transfer import load_weights
from models.spec import Model


def build_model(model: Component[Model], store: Path, patch: tuple[int, ...]) -> nn.Module:
    """Build a model for a store; its weights come from torch's random state.

    Raises StudyError if it cannot be built, or if the result is not a network.
    """
    meta = open_once(store).meta
    given = {
        "in_channels": len(meta.channels),
        "out_channels": len(meta.classes),
        "dims": meta.dims,
        "patch": patch,
    }
    try:
        network = model.row.build(**given, **model.settings)
    except (Exception, SystemExit) as error:  # a user's code may raise anything; it is reported
        asked = ", ".join(
            f"{name}={value!r}" for name, value in {**given, **model.settings}.items()
        )
        raise StudyError(
            f"models: {model.row.name} cannot be built with {asked}: {failure(error)}"
        ) from error
    if not isinstance(network, nn.Module):
        raise StudyError(f"models: {model.row.name} made {said(network)}; expected {MODEL_WANTED}.")
    return network


@contextmanager
def weightless() -> Iterator[None]:
    """Make networks on the meta device, which computes nothing and draws no random numbers."""
    with torch.random.fork_rng(devices=[]), torch.device("meta"):
        yield


def parameter_shapes(
    model: Component[Model], store: Path, patch: tuple[int, ...]
) -> tuple[tuple[int, ...], ...]:
    """Return the shapes of a model's parameters, without making them."""
    with weightless():
        network = build_model(model, store, patch)
    return tuple(tuple(p.shape) for p in network.parameters())


def cramped(model: Component[Model], store: Path, patch: tuple[int, ...]) -> tuple[int, ...] | None:
    """Return the sides of an input that is shorter than a 3-D convolution's kernel, or None.

    It is the first such input in a training step; convolutions of single channels do not count.
    Nothing is computed.
    """
    found: list[tuple[int, ...]] = []

    def look(layer: nn.Conv3d, given: tuple[torch.Tensor, ...]) -> None:
        sides = tuple(given[0].shape[2:])
        reach = zip(layer.kernel_size, layer.dilation, strict=True)
        if any(side <= d * (k - 1) for side, (k, d) in zip(sides, reach, strict=True)):
            found.append(sides)

    with weightless(), torch.no_grad():
        network = build_model(model, store, patch)
        for layer in network.modules():
            if isinstance(layer, nn.Conv3d) and layer.groups == 1:
                layer.register_forward_pre_hook(look)
        network(torch.empty(2, len(open_once(store).meta.channels), *patch))
    return found[0] if found else None


_flops: dict[Hashable, float] = {}


def flops_per_sample(model: Component[Model], store: Path, patch: tuple[int, ...]) -> float:
    """Count the floating-point operations of one sample-gradient: forward and backward, once.

    Counted once per process for a model, on a separate network on the meta device, which computes
    nothing, in evaluation mode (batch norm otherwise refuses one sample) and with the random state
    restored: counting changes no result.
    """
    key = identity_of(model, store, patch)
    if key not in _flops:
        with weightless():
            network = build_model(model, store, patch).eval()
            image = torch.zeros(1, len(open_once(store).meta.channels), *patch)
            with FlopCounterMode(display=False) as counter:
                logits_of(network(image)).sum().backward()  # type: ignore[no-untyped-call]  # torch's stub lacks it
        _flops[key] = float(counter.get_total_flops())
    return _flops[key]


def identity_of(model: Component[Model], store: Path, patch: tuple[int, ...]) -> Hashable:
    """Return what decides the network that `build_model` makes, except its weights."""
    return model.identity, str(sorted(model.settings.items())), store, patch


# ---- for a trial -----------------------------------------------------------------------------

CHANNELS_LAST = {2: torch.channels_last, 3: torch.channels_last_3d}


def make_network(
    trial: Trial,
    kind: Component[Model],
    store: Path,
    device: torch.device,
    world: World,
    seed: int,
    *,
    batch: int,
) -> tuple[nn.Module, nn.Module]:
    """Return a trial's network and the module that its training calls: itself, or a faster form.

    The weights are drawn by `seed`, and then replaced by those that the trial starts from. `batch`
    is the number of samples that go through it at once in training.
    """
    torch.manual_seed(seed)
    model = build_model(kind, store, trial.patch)
    if trial.start:
        load_weights(model, kind.row, trial.start)
    if trial.given_clinical:
        opened = open_once(store)
        # After the network's own weights, so that those are the same as without clinical data.
        model = LateFusion(model, numbers=width(opened), classes=len(opened.meta.classes))
    model = model.to(device)
    if trial.channels_last:
        _channels_last(model)
    if world.size > 1:
        model = _with_shared_statistics(model, device)
    forward = model
    # All that the compiled code depends on without checking it again.
    settings = trial.precision, trial.channels_last, device, world.size, trial.given_clinical
    key = identity_of(kind, store, trial.patch), settings
    if trial.compiled:
        model, forward = compiled_once(model, key)
    if not trial.cuda_graph:
        graph.forget()
        return model, forward
    channels = len(open_once(store).meta.channels) + trial.given_clinical
    images = torch.zeros(batch, channels, *trial.patch, device=device)
    if trial.channels_last:
        images = images.contiguous(memory_format=CHANNELS_LAST[len(trial.patch)])
    try:
        return graph.graphed_once(
            model,
            forward,
            key=(key, batch, trial.compiled),
            images=images,
            autocast=PRECISIONS[trial.precision].autocast(device),
        )
    except Exception as error:  # a user's network may raise anything; it is reported
        raise StudyError(
            f"cuda_graph: {kind.row.name} cannot be recorded as a CUDA graph "
            f"({failure(error)}): leave cuda_graph out"
        ) from error


def _with_shared_statistics(model: nn.Module, device: torch.device) -> nn.Module:
    """Return a network whose batch norms take their statistics over all processes of the trial.

    Their parameters and buffers are the same tensors, by the same names. torch's own version runs
    only on GPUs, and drops the activation that timm's batch norms end with.
    """
    found = {name: m for name, m in model.named_modules() if isinstance(m, _BatchNorm)}
    for name, norm in found.items():
        shared: nn.Module = (
            SharedBatchNorm(norm).train(norm.training)
            if device.type == "cpu" or hasattr(norm, "act")
            else nn.SyncBatchNorm.convert_sync_batchnorm(norm)  # type: ignore[no-untyped-call]  # torch's stub lacks it
        )
        if not name:
            return shared
        owner, _, attribute = name.rpartition(".")
        setattr(model.get_submodule(owner), attribute, shared)
    return model


class SharedBatchNorm(_BatchNorm):
    """A batch norm whose statistics are those of the global batch, on any device.

    Keeps the `drop` and `act` that timm's BatchNormAct2d ends with. Takes the mean first, then the
    deviations from it: a difference of two sums of squares would lose half of the digits.
    """

    def __init__(self, norm: _BatchNorm) -> None:
        super().__init__(norm.num_features, norm.eps, norm.momentum, affine=False)
        self.affine, self.track_running_stats = norm.affine, norm.track_running_stats
        self.weight, self.bias = norm.weight, norm.bias
        for name in ("running_mean", "running_var", "num_batches_tracked"):
            setattr(self, name, getattr(norm, name))
        self.drop = getattr(norm, "drop", nn.Identity())
        self.act = getattr(norm, "act", nn.Identity())

    def _check_input_dim(self, _given: Tensor) -> None:
        """Accept any number of dimensions: the network was built for its images."""

    def forward(self, given: Tensor) -> Tensor:
        """Return (N, C, ...), each channel normalised to mean 0 and variance 1, scaled, shifted."""
        known = self.running_mean is not None
        if not self.training and known:
            return self._ended(super().forward(given))
        x = given if given.dtype == torch.float64 else given.float()
        axes = [0, *range(2, x.dim())]
        along = (1, -1, *[1] * (x.dim() - 2))
        share = over_processes(torch.cat([x.sum(axes), x.new_tensor([x.numel() / x.shape[1]])]))
        count = share[-1].detach()
        mean = share[:-1] / count
        apart = x - mean.view(along)
        variance = over_processes(apart.square().sum(axes)) / count
        if self.training and self.track_running_stats and known:
            self._note(mean.detach(), variance.detach() * (count / (count - 1)))
        found = apart * (variance + self.eps).rsqrt().view(along)
        if self.affine:
            found = found * self.weight.view(along) + self.bias.view(along)
        return self._ended(found.to(given.dtype))

    @torch.no_grad()
    def _note(self, mean: Tensor, variance: Tensor) -> None:
        """Move the running statistics towards those of a batch, as torch's batch norms do."""
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        part = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), part)
        self.running_var.lerp_(variance.to(self.running_var.dtype), part)

    def _ended(self, found: Tensor) -> Tensor:
        ended: Tensor = self.act(self.drop(found))
        return ended


def _channels_last(model: nn.Module) -> None:
    """Store the weights of convolutions with their channels innermost, by their own rank.

    `Module.to` refuses networks whose convolutions have other dimensions than their images, such as
    those for clips.
    """
    for parameter in model.parameters():
        if parameter.dim() - 2 in CHANNELS_LAST:
            memory = CHANNELS_LAST[parameter.dim() - 2]
            parameter.data = parameter.data.contiguous(memory_format=memory)


# ---- compiled --------------------------------------------------------------------------------

_compiled: dict[Hashable, tuple[nn.Module, nn.Module]] = {}


def compiled_once(model: nn.Module, key: Hashable) -> tuple[nn.Module, nn.Module]:
    """Return a network with the weights of `model`, and its compiled form.

    The first call with a key compiles `model` itself (at its first batch). Later calls copy the
    weights of `model` into that first network, so that a lane compiles once for all trials of a
    model. Only one trial uses a key at a time.
    """
    if key not in _compiled:
        _compiled[key] = model, torch.compile(model, dynamic=False)  # type: ignore[assignment]  # it is a module
        return _compiled[key]
    kept, fast = _compiled[key]
    graph.take_weights(kept, model)
    return kept, fast
