"""Optimizers that a study names by reference: from an installed library, or the user's own."""

import hashlib
import inspect
import json
from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from bench.core.references import StudyError, failure, said
from bench.core.settings import Setting, merge
from bench.optimizers.spec import Optimizer

# Wrappers' names for their first argument. Some also accept parameters there and choose a base
# optimizer themselves, which would then be compared under their name.
_WRAPPED = {"optimizer", "base_optimizer"}

Constructor = Callable[..., torch.optim.Optimizer]

# What the loop and the results need from an optimizer.
_PARTS = ("step", "zero_grad", "param_groups", "state_dict", "load_state_dict")

# Arguments that say how an optimizer computes (or in which direction), not which one it is.
_HOW = {"foreach", "fused", "capturable", "differentiable", "maximize"}


def borrowed(name: str, constructor: Constructor, given: Mapping[str, Any]) -> Optimizer:
    """Return the row of an optimizer that is called as `constructor(parameters, **settings)`.

    Its settings are those in the constructor's signature, with their defaults. The class tells what
    the loop must do for it: an attribute `needs_closure` means that its step takes a closure, an
    argument `hessian` of its step means that it differentiates the gradient again, and methods
    `train` and `eval` mean that it averages weights.

    Raises StudyError if it takes another optimizer, if a setting is unknown, of the wrong type, or
    required but missing in `given`, and if two steps on a small network raise an error: such an
    optimizer needs something that the loop does not provide.
    """
    closure = bool(getattr(constructor, "needs_closure", False))
    graph = "hessian" in _arguments(getattr(constructor, "step", None))
    row = Optimizer(
        name=name,
        constructor=constructor,
        defaults=_defaults(name, constructor, given),
        decay="unknown",
        scale_free=False,  # not known: better one warning too many
        fractions=_fractions(constructor),
        space={},
        step="closure" if closure else "create_graph" if graph else "plain",
        averages=hasattr(constructor, "train") and hasattr(constructor, "eval"),
        scalable=not (closure or graph),
        one_device=graph,
        state_floats=None,
        summary="of the user's own",
        source=name,
    )
    _rehearse(name, constructor, row.step, json.dumps(dict(row.defaults), sort_keys=True))
    return row


@lru_cache
def source_of(constructor: Constructor, module: str) -> str:
    """Return the SHA-256 of the file that `constructor` is written in, as first read.

    A library may export its classes in one file and define them in others, which a trial's id must
    follow. If there is no such file, returns `module`: the hash of the module that named it.
    """
    try:
        file = inspect.getsourcefile(constructor)
    except TypeError:
        file = None
    return hashlib.sha256(Path(file).read_bytes()).hexdigest() if file else module


def _arguments(function: Any) -> Mapping[str, inspect.Parameter]:
    try:
        return inspect.signature(function).parameters if callable(function) else {}
    except ValueError:  # raised for a built-in function
        return {}


def _fractions(constructor: Constructor) -> frozenset[str]:
    """Return the arguments with a whole number as default that are not annotated as int."""
    return frozenset(
        a.name
        for a in _arguments(constructor).values()
        if type(a.default) is int and a.annotation not in (int, "int")
    )


def _defaults(name: str, constructor: Constructor, given: Mapping[str, Any]) -> dict[str, Setting]:
    """Return the keyword settings of `constructor`: its defaults, overridden by `given`."""
    if next(iter(_arguments(constructor)), None) in _WRAPPED:
        raise StudyError(
            f"optimizers: {name} needs another optimizer, which a study cannot give. Write a "
            f"function of parameters and settings that makes both, and name it as path/file.py:name"
        )
    arguments = list(_arguments(constructor).values())[1:]
    named = {
        a.name: a.default for a in arguments if a.kind in (a.POSITIONAL_OR_KEYWORD, a.KEYWORD_ONLY)
    }
    # pytorch-optimizer's constructors accept any name, so a misspelt one would go unnoticed.
    swallows = getattr(constructor, "__module__", "").startswith("pytorch_optimizer.")
    more = any(a.kind == a.VAR_KEYWORD for a in arguments) and not swallows
    missing = [n for n, d in named.items() if d is inspect.Parameter.empty and n not in given]
    if missing:
        raise StudyError(
            f"optimizers: {name} needs {', '.join(missing)}: set it if it is a number or a text; "
            f"otherwise this optimizer cannot be named in a study"
        )
    settings = {n: d for n, d in named.items() if _is_setting(d) and n not in _HOW}
    # Settings whose default is None or missing: their type cannot be checked.
    free = {
        n: tuple(v) if isinstance(v, list) else v
        for n, v in given.items()
        if n not in settings and (more or n in named) and _is_setting(v)
    }
    # A rate with the default 0 takes fractions.
    whole = _fractions(constructor)
    settings |= {n: float(d) for n, d in settings.items() if n in whole and _is_float(given, n)}
    try:
        return merge(f"optimizer {name}", {**settings, **free}, given)
    except ValueError as error:
        raise StudyError(f"optimizers: {error}") from error


def _check_parts(made: object) -> None:
    if missing := [part for part in _PARTS if not hasattr(made, part)]:
        raise TypeError(f"it made {said(made)}, which has no {', '.join(missing)}")


def _is_float(given: Mapping[str, Any], name: str) -> bool:
    return isinstance(given.get(name), float)


def _is_setting(value: object) -> bool:
    if isinstance(value, list | tuple):
        return all(isinstance(v, int | float) for v in value)
    return isinstance(value, bool | int | float | str)


@lru_cache
def _rehearse(name: str, constructor: Constructor, step: str, settings: str) -> None:
    """Make two steps on a small network with convolution, norm and linear layer."""
    given = {n: tuple(v) if isinstance(v, list) else v for n, v in json.loads(settings).items()}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = nn.Sequential(
            nn.Conv2d(1, 4, 3),
            nn.InstanceNorm2d(4, affine=True),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(64, 2),
        )
        image, label = torch.randn(4, 1, 6, 6), torch.tensor([0, 1, 0, 1])
        try:
            optimizer = constructor(list(network.parameters()), **given)
            _check_parts(optimizer)

            def evaluate() -> torch.Tensor:
                optimizer.zero_grad()
                loss = F.cross_entropy(network(image), label)
                own = list(network.parameters())
                gradients = torch.autograd.grad(loss, own, create_graph=step == "create_graph")
                for p, gradient in zip(own, gradients, strict=True):
                    p.grad = gradient
                return loss

            for _ in range(2):
                if step == "closure":
                    optimizer.step(evaluate)  # type: ignore[arg-type]  # torch's stub wants a float
                else:
                    evaluate()
                    optimizer.step()
        except (Exception, SystemExit) as error:  # a user's code may raise anything; it is reported
            raise StudyError(
                f"optimizers: {name} cannot be driven by the training loop: on a small network "
                f"with {given or 'no settings'} it fails with {failure(error)}; expected a "
                f"class or function that makes a torch optimizer of parameters and settings."
            ) from error
