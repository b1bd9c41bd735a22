"""Classifiers of timm and torchvision by their own names: `timm:NAME`, `torchvision:NAME`.

Weights are always new: nothing is fetched, and names of a hub are not accepted.
"""

import inspect
import warnings
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from functools import lru_cache, partial
from importlib.metadata import version
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.spec import Model, Setting, by_children
from models.stem import adapted, is_small

# Small images are enlarged by this factor, by which most stems downsample, so that any of these
# networks keeps their resolution with its own stem.
ENLARGED = 4
# The modules that hold the stages of networks, by the names that these libraries use.
OPENED = ("features", "stages", "blocks", "layers", "encoder", "encoder.layers")
# These libraries' names for the rate of dropout before the last layer; here it is `dropout`.
DROPOUTS = frozenset({"dropout", "drop_rate"})
# Arguments that the images, the classes and a network's contract decide.
DECIDED = frozenset(
    {"in_chans", "num_classes", "img_size", "image_size", "input_size", "aux_logits"}
)

Sides = tuple[int, ...]
Arguments = Mapping[str, Any]  # keyword argument of a class -> its default


@dataclass(frozen=True, kw_only=True)
class Library:
    """A library of classifiers: their names, and how one is made.

    `make(name, in_channels, out_channels, arguments, settings)` returns a network with new weights.
    `first` and `head` return the names of a network's first convolution and last layer, None for
    the first and last that it has; `sides` the sides of the images that it takes, if they are
    fixed.
    """

    names: Callable[[], Collection[str]]
    make: Callable[[str, int, int, Arguments, Mapping[str, Any]], nn.Module]
    first: Callable[[nn.Module], str | None]
    head: Callable[[nn.Module], str | None]
    sides: Callable[[nn.Module], Sides | None]


def is_by_name(reference: str) -> bool:
    """Whether a reference names a network of one of the libraries."""
    return reference.partition(":")[0] in LIBRARIES


def by_name(reference: str, given: Mapping[str, Any]) -> Model:
    """Return the row of `timm:NAME` or `torchvision:NAME`.

    Its settings are `dropout`, if the network has it, and those of `given` that the constructor of
    its class takes by name. Raises ValueError on a name that the library lacks.
    """
    package, _, name = reference.partition(":")
    library = LIBRARIES[package]
    known = library.names()
    if name not in known:
        near = get_close_matches(name, known, n=5)
        hint = f"Did you mean {', '.join(near)}? " if near else ""
        raise ValueError(
            f"{package} has no classifier {name!r}. {hint}It has {len(known)}. Give the name "
            f"without a tag of weights or an address of a hub: nothing is fetched."
        )
    example, arguments = _example(package, name)
    settings = _dropout(example, arguments) | {
        argument: value
        for argument, value in given.items()
        if argument in set(arguments) - DECIDED - DROPOUTS
        and isinstance(value, bool | int | float | str)
    }
    first = library.first(example) or _first_convolution(example)
    return Model(
        name=reference,
        build=partial(_build, package, name),
        tasks=("classification",),
        dims=(2,),
        divisor=1,
        min_size=8,
        settings=settings,
        stages=partial(_stages, package),
        first=first and f"{first}.weight",
        summary=f"{name} of {package}, with new weights",
        source=f"{package} {version(package)}",
    )


def _dropout(example: nn.Module, arguments: Arguments) -> dict[str, Setting]:
    """Return `dropout` with its published value, nothing if a network has none."""
    defaults = [arguments[name] for name in DROPOUTS if name in arguments]
    if not defaults:
        return {}
    if isinstance(defaults[0], int | float):
        return {"dropout": float(defaults[0])}
    # The class has no default; the library's builder sets one.
    return {"dropout": [m.p for m in example.modules() if isinstance(m, nn.Dropout)][-1]}


def _build(
    package: str,
    name: str,
    *,
    in_channels: int,
    out_channels: int,
    dims: int,
    patch: tuple[int, ...],
    **settings: Setting,
) -> nn.Module:
    """Return a network from (N, in_channels, *patch) to logits (N, out_channels).

    One that takes images of one size gets them padded with zeros to a square and resized
    (bilinear); others get small images, `models.stem.is_small`, enlarged by `ENLARGED`.
    """
    del dims
    example, arguments = _example(package, name)
    library, given = LIBRARIES[package], dict(settings)
    if "dropout" in given:
        (of_library,) = DROPOUTS & set(arguments)
        given[of_library] = given.pop("dropout")
    network = library.make(name, in_channels, out_channels, arguments, given)
    sides, padding = library.sides(example), (0, 0, 0, 0)
    if sides:
        height, length = (max(patch) - side for side in patch)
        padding = (0, length, 0, height)
    elif is_small(patch):
        sides = tuple(ENLARGED * side for side in patch)
    if sides:
        # As a hook, not a wrapper, so that parameters keep their names in pretrained weights.
        network.register_forward_pre_hook(partial(_fitted, padding, sides))
    return network


def _fitted(
    padding: tuple[int, ...], sides: Sides, _network: nn.Module, images: tuple[Tensor]
) -> Tensor:
    """Return images padded, then resized."""
    padded = F.pad(images[0], padding)
    return F.interpolate(padded, sides, mode="bilinear", antialias=True)


def _stages(package: str, network: nn.Module) -> tuple[str, ...]:
    found = by_children(*OPENED)(network)
    last = LIBRARIES[package].head(network) or found[-1]
    head = [stage for stage in found if f"{last}.".startswith(f"{stage}.")]
    return (*(stage for stage in found if stage not in head), *head)


@lru_cache
def _example(package: str, name: str) -> tuple[nn.Module, Arguments]:
    """Return the published network, without values, and the keyword arguments of its class."""
    make = partial(LIBRARIES[package].make, name, 3, 1000, {}, {})
    with torch.random.fork_rng(devices=[]):
        try:
            with torch.device("meta"):
                network = make()
        except NotImplementedError:  # RegNets read values of a tensor while they are made
            with torch.device("cpu"):
                network = make()
            network.to("meta")
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    parameters = inspect.signature(type(network)).parameters.values()
    return network, {a.name: a.default for a in parameters if a.kind in kinds}


def _first_convolution(network: nn.Module) -> str | None:
    found = (name for name, m in network.named_modules() if isinstance(m, nn.Conv2d))
    return next(found, None)


# ---- timm ------------------------------------------------------------------------------------


def _timm_itself() -> Any:
    # Late, as torchvision below: each takes seconds to import.
    with warnings.catch_warnings():
        # About its own use of TorchScript, which the user cannot change.
        warnings.simplefilter("ignore", FutureWarning)
        import timm
    return timm


@lru_cache
def _timm_names() -> frozenset[str]:
    return frozenset(_timm_itself().list_models())


def _timm(
    name: str,
    in_channels: int,
    out_channels: int,
    _arguments: Arguments,
    settings: Mapping[str, Any],
) -> nn.Module:
    network: nn.Module = _timm_itself().create_model(
        name, pretrained=False, in_chans=in_channels, num_classes=out_channels, **settings
    )
    return network


def _timm_says(key: str, network: Any) -> str | None:
    """Return a module's name from timm's description of a network: `first_conv`, `classifier`."""
    said = network.pretrained_cfg.get(key)
    # Distilled networks have two heads; the first is the usual one.
    name: str | None = said[0] if isinstance(said, tuple | list) else said
    return name


def _timm_sides(network: Any) -> Sides | None:
    said = network.pretrained_cfg
    return tuple(said["input_size"][1:]) if said.get("fixed_input_size") else None


# ---- torchvision -----------------------------------------------------------------------------


@lru_cache
def _torchvision_names() -> frozenset[str]:
    from torchvision import models

    return frozenset(models.list_models(module=models))


def _torchvision(
    name: str,
    in_channels: int,
    out_channels: int,
    arguments: Arguments,
    settings: Mapping[str, Any],
) -> nn.Module:
    from torchvision.models import get_model

    without = {"aux_logits": False} if "aux_logits" in arguments else {}
    with warnings.catch_warnings():
        # From GoogLeNet and Inception: their initialisation of weights will change one day.
        warnings.simplefilter("ignore", FutureWarning)
        network: nn.Module = get_model(
            name, weights=None, num_classes=out_channels, **without, **settings
        )
    first = _first_convolution(network)
    if in_channels != 3 and first is not None:
        stem = network.get_submodule(first)
        assert isinstance(stem, nn.Conv2d)
        new = adapted(stem, in_channels)
        # As in most of torchvision's networks.
        nn.init.kaiming_normal_(new.weight, mode="fan_out", nonlinearity="relu")
        if new.bias is not None:
            nn.init.zeros_(new.bias)
        network.set_submodule(first, new)
    return network


def _torchvision_sides(network: nn.Module) -> Sides | None:
    # All networks with a fixed size (its transformers) are published for 224.
    said = {"image_size", "input_size"} & set(inspect.signature(type(network)).parameters)
    return (224, 224) if said else None


LIBRARIES: dict[str, Library] = {
    "timm": Library(
        names=_timm_names,
        make=_timm,
        first=partial(_timm_says, "first_conv"),
        head=partial(_timm_says, "classifier"),
        sides=_timm_sides,
    ),
    "torchvision": Library(
        names=_torchvision_names,
        make=_torchvision,
        first=_first_convolution,
        head=lambda _network: None,
        sides=_torchvision_sides,
    ),
}
