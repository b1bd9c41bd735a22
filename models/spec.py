"""The rows of the table of networks, and the order of a network's stages."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from math import ceil, prod
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from torch import nn

# Widths of U-Nets: assumptions, the same in all four-level rows, so that designs are compared, not
# widths.
CHANNELS = (16, 32, 64, 128)
SMALL_CHANNELS = (8, 16, 32)

Setting = bool | int | float | str | tuple[float, ...]
Stages: TypeAlias = "Callable[[nn.Module], tuple[str, ...]]"


def by_children(*opened: str) -> Stages:
    """Return a function that lists the children of a network that own parameters, in order.

    A child named in `opened` (dotted if it is deeper) is replaced by its own children. Parameters
    that belong to no child (the tokens of a transformer) come first.
    """

    def stages(network: nn.Module) -> tuple[str, ...]:
        def walk(module: nn.Module, prefix: str) -> list[str]:
            found = [prefix + name for name, _ in module.named_parameters(recurse=False)]
            for name, child in module.named_children():
                if prefix + name in opened:
                    found += walk(child, f"{prefix}{name}.")
                elif any(True for _ in child.parameters()):
                    found.append(prefix + name)
            return found

        return tuple(walk(network, ""))

    return stages


TOP_LEVEL = by_children()


def multiples(divisor: int, patch: tuple[int, ...]) -> tuple[int, ...]:
    """Return `divisor` for each side of a patch."""
    return (divisor,) * len(patch)


@dataclass(frozen=True, kw_only=True)
class Model:
    """One network of the table.

    `build(in_channels=, out_channels=, dims=, patch=)` returns a module that maps images
    (N, in_channels, *patch) to logits, or to an `Output` of them: (N, out_channels) for
    classification, (N, out_channels, *patch) for segmentation. `settings` are bound to it, so
    that `dataclasses.replace(row, settings=...)` is the same network with other settings. Initial
    weights come from torch's global generator.

    Raises ValueError on a setting outside its `choices`, and on a `dropout` outside [0, 1).
    """

    name: str
    build: Callable[..., nn.Module] = field(repr=False)
    tasks: tuple[str, ...]
    dims: tuple[int, ...]
    divisor: int  # each side of a patch is a multiple of this
    min_size: int  # each side of a patch has at least this many pixels or voxels
    summary: str
    source: str
    settings: Mapping[str, Setting] = field(default_factory=dict)
    # Setting -> its possible values, for settings that are one of a few texts.
    choices: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    # Network -> names of modules (or of parameters beside them) from input to output that together
    # cover every parameter once. The last is the head, which depends on out_channels.
    stages: Stages = TOP_LEVEL
    weights: str | None = None  # torchvision's, for builds in 2-D
    first: str | None = None  # the first convolution's weight, whose input channels vary
    # Patch it was built for -> the multiple that each side of a whole image must be, for networks
    # that take images of any size; None: it takes only patches.
    whole: Callable[[tuple[int, ...]], tuple[int, ...]] | None = field(default=None, repr=False)
    # The rows that the setting `encoder` chooses from, for networks that look at single frames.
    encoders: Mapping[str, Model] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        for setting, allowed in self.choices.items():
            if self.settings[setting] not in allowed:
                raise ValueError(
                    f"model {self.name} has no {setting} {self.settings[setting]!r}; "
                    f"choices: {', '.join(allowed)}"
                )
        dropout = self.settings.get("dropout", 0.0)
        if not isinstance(dropout, float | int) or not 0 <= dropout < 1:
            raise ValueError(
                f"model {self.name}: dropout must be from 0 to below 1, not {dropout!r}"
            )
        object.__setattr__(self, "build", partial(self.build, **self.settings))

    def unfit(self, *, task: str, dims: int, patch: tuple[int, ...]) -> str | None:
        """Return the sentence that says why this network cannot be used so; None if it can."""
        if task not in self.tasks:
            return f"model {self.name} is for {' and '.join(self.tasks)}, not for {task}"
        if dims not in self.dims:
            able = " and ".join(f"{d}-D" for d in self.dims)
            return f"model {self.name} takes {able} images, not {dims}-D ones"
        if len(patch) != dims:
            return f"a patch of {dims}-D images has {dims} sides; {patch} has {len(patch)}"
        size = " x ".join(map(str, patch))
        if any(side % self.divisor or side < self.min_size for side in patch):
            steps = (ceil(max(side, self.min_size) / self.divisor) for side in patch)
            fits = " x ".join(str(count * self.divisor) for count in steps)
            return (
                f"model {self.name} takes patches whose sides are multiples of {self.divisor} and "
                f"at least {self.min_size}, not {size}; {fits} fits"
            )
        if task == "segmentation" and prod(side // self.divisor for side in patch) == 1:
            # Normalising over a single voxel gives zero, and torch refuses to do it.
            return f"model {self.name} would bring {size} down to one voxel; take a larger patch"
        if self.encoders:
            why = self.encoders[str(self.settings["encoder"])].unfit(
                task=task, dims=2, patch=patch[1:]
            )
            return why and f"model {self.name} looks at single frames, and {why}"
        return None
