"""The size of an optimizer's state and matrices, from the shapes of a network's parameters.

`Shapes` are the shapes of the parameters in the order of `model.parameters()`. State is counted in
float32 numbers; widths are those of the square matrices that a step decomposes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import product
from math import prod
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

Shape = tuple[int, ...]
Shapes = Sequence[Shape]
Settings = Mapping[str, Any]
Count = Callable[[Shapes, Settings], float]
Widths = Callable[[Shapes, Settings], list[int]]


def shapes_of(parameters: Iterable[Tensor]) -> list[Shape]:
    """Return the shapes of parameters, in their order."""
    return [tuple(p.shape) for p in parameters]


def numbers(shapes: Iterable[Shape]) -> int:
    """Return how many numbers tensors of these shapes hold."""
    return sum(prod(shape) for shape in shapes)


def no_widths(_shapes: Shapes, _settings: Settings) -> list[int]:
    """Return the widths of an optimizer that decomposes nothing: none."""
    return []


def everything(shapes: Shapes, _settings: Settings) -> float:
    """Return how many numbers there are, for an optimizer that drives them all."""
    return numbers(shapes)


# ---- torch.optim ----


def sgd_state(shapes: Shapes, settings: Settings) -> float:
    """Count one momentum buffer, or none without momentum."""
    return numbers(shapes) * bool(settings["momentum"])


def rmsprop_state(shapes: Shapes, settings: Settings) -> float:
    """Count squared gradients, a buffer with `momentum`, and the mean gradient if `centered`."""
    return numbers(shapes) * (1 + bool(settings["momentum"]) + bool(settings["centered"]))


def adafactor_state(shapes: Shapes, _settings: Settings) -> float:
    """Count rows and columns of the last two dimensions (torch factors those), vectors whole."""
    return sum(prod(s) if len(s) < 2 else prod(s[:-1]) + prod(s[:-2]) * s[-1] for s in shapes)


def lbfgs_state(shapes: Shapes, settings: Settings) -> float:
    """Count a direction, a gradient, and `history_size` pairs of step and gradient change."""
    return numbers(shapes) * (2 + 2 * int(settings["history_size"]))


# ---- Muon ----


def muon_matrices(shapes: Shapes) -> list[bool]:
    """Return, for each parameter, whether Muon drives it: hidden weights of two or more dimensions.

    The first and the last such weight are the input layer and the head, which its authors leave to
    AdamW (Jordan et al. 2024, "Muon: an optimizer for hidden layers"). It is an assumption that
    parameters are ordered from input to output; it holds for the networks here.
    """
    weights = [i for i, shape in enumerate(shapes) if len(shape) >= 2]
    hidden = set(weights[1:-1])
    return [i in hidden for i in range(len(shapes))]


def muon_driven(shapes: Shapes, _settings: Settings) -> float:
    """Return how many numbers are in the weights that Muon drives itself."""
    return numbers(s for s, muon in zip(shapes, muon_matrices(shapes), strict=True) if muon)


def muon_state(shapes: Shapes, settings: Settings) -> float:
    """Count one momentum buffer where Muon drives, and AdamW's two elsewhere."""
    return 2 * numbers(shapes) - muon_driven(shapes, settings)


# ---- SOAP: Adam in the eigenbasis of Shampoo's statistics ----


def _soap_sides(shape: Shape, settings: Settings) -> list[int]:
    # pytorch-optimizer's SOAP does not rotate vectors, nor dimensions above the limit.
    limit = settings["max_precondition_dim"]
    return [d for d in shape if len(shape) > 1 and d <= limit]


def soap_widths(shapes: Shapes, settings: Settings) -> list[int]:
    """Return the widths of all matrices whose eigenbasis SOAP keeps."""
    return [d for shape in shapes for d in _soap_sides(shape, settings)]


def soap_state(shapes: Shapes, settings: Settings) -> float:
    """Count Adam's two moments, and each side's statistics and their eigenbasis."""
    return 2 * numbers(shapes) + sum(2 * d * d for d in soap_widths(shapes, settings))


def soap_driven(shapes: Shapes, settings: Settings) -> float:
    """Return how many numbers are in parameters that are rotated on at least one side."""
    return numbers(s for s in shapes if _soap_sides(s, settings))


# ---- Shampoo in blocks ----


def _shampoo_blocks(shape: Shape, settings: Settings) -> Iterator[int]:
    # As in pytorch-optimizer's ScalableShampoo: small dimensions are merged up to the block's size,
    # and a tensor that merges into one dimension is not preconditioned.
    block = int(settings["block_size"])
    if any(d > settings["no_preconditioning_for_layers_with_dim_gt"] for d in shape):
        return
    merged, size = [], 1
    for d in shape:
        if size * d > block:
            merged.append(size)
            size = d
        else:
            size *= d
    merged.append(size)
    if len(merged) > 1:
        pieces = [[min(block, d - start) for start in range(0, d, block)] for d in merged]
        for widths in product(*pieces):
            yield from widths


def shampoo_widths(shapes: Shapes, settings: Settings) -> list[int]:
    """Return the widths of all matrices whose inverse roots Shampoo takes."""
    return [d for shape in shapes for d in _shampoo_blocks(shape, settings)]


def shampoo_state(shapes: Shapes, settings: Settings) -> float:
    """Count two momenta, the graft's squares, and each block's statistics and their root."""
    graft = {"rmsprop": 1, "adagrad": 1, "sgd": 0}[str(settings["graft"])]
    blocks = sum(2 * d * d for d in shampoo_widths(shapes, settings))
    return (2 + graft) * numbers(shapes) + blocks


def shampoo_driven(shapes: Shapes, settings: Settings) -> float:
    """Return how many numbers are in the parameters that matrices precondition."""
    return numbers(s for s in shapes if any(True for _ in _shampoo_blocks(s, settings)))


# ---- PSGD with Kronecker factors ----


def _kron_sides(shape: Shape, settings: Settings) -> list[int]:
    # Vectors, sides of 1 and those above the limit have a diagonal.
    limit = settings["max_size_triangular"]
    return [d for d in shape if len(shape) > 1 and 1 < d <= limit]


def kron_widths(shapes: Shapes, settings: Settings) -> list[int]:
    """Return the widths of all triangular factors, which each step solves and multiplies with."""
    return [d for shape in shapes for d in _kron_sides(shape, settings)]


def kron_state(shapes: Shapes, settings: Settings) -> float:
    """Count one momentum buffer, and a triangular factor or a diagonal for each side."""
    diagonals = sum(sum(s or (1,)) - sum(_kron_sides(s, settings)) for s in shapes)
    return numbers(shapes) + diagonals + sum(d * d for d in kron_widths(shapes, settings))


# ---- MARS ----


def matrices_driven(shapes: Shapes, _settings: Settings) -> float:
    """Return how many numbers are in the weights of two or more dimensions."""
    return numbers(s for s in shapes if len(s) > 1)
