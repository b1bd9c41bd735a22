"""nnU-Net's U-Net from MONAI's blocks, with kernels and strides planned from the patch."""

from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from models.output import Output

# Isensee et al. 2021 (nnU-Net), supplementary note 2, and its code, network_topology.py and
# default_experiment_planner.py.
BASE_WIDTH = 32
WIDEST = {2: 512, 3: 320}
SHORTEST = 4  # fewest voxels on each side of the lowest level
SLOPE = 0.01  # of the leaky ReLU

Plan = tuple[list[tuple[int, ...]], list[tuple[int, ...]]]


def plan(patch: tuple[int, ...]) -> Plan:
    """Return the kernel and the stride of each level, the finest first.

    nnU-Net's rule: an axis is halved while both halves keep `SHORTEST` voxels and its spacing is
    within a factor of 2 of the finest; its kernel is 1 until its spacing is first within that
    factor. nnU-Net makes patches that are cubes in millimetres, so spacings are assumed to be
    inverse to the sides: 16 x 32 x 32 has voxels twice as thick as wide. nnU-Net pads a patch to
    what its plan needs; here an axis of odd length is not halved further.
    """
    sides, spacings = list(patch), [max(patch) / side for side in patch]
    wide = [False] * len(patch)
    kernels: list[tuple[int, ...]] = []
    strides: list[tuple[int, ...]] = [(1,) * len(patch)]
    while True:
        able = [a for a, side in enumerate(sides) if side >= 2 * SHORTEST and side % 2 == 0]
        finest = min((spacings[axis] for axis in able), default=0.0)
        halved = [axis for axis in able if spacings[axis] < 2 * finest]
        if not halved or (len(halved) == 1 and sides[halved[0]] < 3 * SHORTEST):
            break
        wide = [w or s < 2 * min(spacings) for w, s in zip(wide, spacings, strict=True)]
        kernels.append(tuple(3 if w else 1 for w in wide))
        strides.append(tuple(2 if axis in halved else 1 for axis in range(len(patch))))
        for axis in halved:
            sides[axis] //= 2
            spacings[axis] *= 2
    kernels.append((3,) * len(patch))
    return kernels, strides


def multiples(patch: tuple[int, ...]) -> tuple[int, ...]:
    """Return the multiples that the sides of an image must be, for a network of this patch."""
    _, strides = plan(patch)
    return tuple(prod(along) for along in zip(*strides, strict=True))


class DynUNet(nn.Module):
    """(N, in_channels, *patch) to logits (N, out_channels, *patch), in training with coarser ones.

    Two convolutions per level, each with instance normalisation and leaky ReLU; strided and
    transposed convolutions between levels. Dropout follows the convolutions of a level. As in
    nnU-Net, every level of the decoder except the lowest is supervised.
    """

    def __init__(
        self,
        *,
        in_channels: int,
        out_channels: int,
        dims: int,
        patch: tuple[int, ...],
        dropout: float,
    ) -> None:
        super().__init__()
        kernels, strides = plan(patch)
        widths = [min(BASE_WIDTH * 2**level, WIDEST[dims]) for level in range(len(kernels))]
        self.encoder = nn.ModuleList(
            _convolutions(dims, below, width, kernel, stride, dropout)
            for below, width, kernel, stride in zip(
                [in_channels, *widths[:-1]], widths, kernels, strides, strict=True
            )
        )
        lowest_up = reversed(range(len(widths) - 1))
        self.decoder = nn.ModuleList(
            _Up(dims, widths[level + 1], widths[level], kernels[level], strides[level + 1], dropout)
            for level in lowest_up
        )
        convolution = {2: nn.Conv2d, 3: nn.Conv3d}[dims]
        supervised = max(len(widths) - 2, 1)
        self.heads = nn.ModuleList(convolution(w, out_channels, 1) for w in widths[:supervised])
        self.apply(_initialise)

    def forward(self, image: Tensor) -> Tensor | Output:
        """Return the logits, in training with those of coarser levels, finest first."""
        features = image
        skips = []
        for block in self.encoder:
            features = block(features)
            skips.append(features)
        maps = []
        for block, skip in zip(self.decoder, reversed(skips[:-1]), strict=True):
            features = block(features, skip)
            maps.append(features)
        finest, *coarser = self.heads
        logits: Tensor = finest(features)
        if not self.training:
            return logits
        lower = reversed(maps[:-1])
        deep = tuple(head(m) for head, m in zip(coarser, lower, strict=False))
        return Output(logits=logits, deep=deep)


class _Up(nn.Module):
    """A level of the decoder: the features from below, enlarged by `stride`, joined to the skip."""

    def __init__(
        self,
        dims: int,
        below: int,
        width: int,
        kernel: tuple[int, ...],
        stride: tuple[int, ...],
        dropout: float,
    ) -> None:
        super().__init__()
        transposed: Any = {2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}[dims]
        self.enlarge = transposed(below, width, stride, stride, bias=False)
        self.convolutions = _convolutions(dims, 2 * width, width, kernel, 1, dropout)

    def forward(self, features: Tensor, skip: Tensor) -> Tensor:
        joined = torch.cat((self.enlarge(features), skip), dim=1)
        given: Tensor = self.convolutions(joined)
        return given


def _convolutions(
    dims: int,
    in_channels: int,
    out_channels: int,
    kernel: tuple[int, ...],
    stride: tuple[int, ...] | int,
    dropout: float,
) -> nn.Module:
    # Late: MONAI takes seconds to import, and most commands build no network.
    from monai.networks.blocks.dynunet_block import UnetBasicBlock

    block: nn.Module = UnetBasicBlock(
        spatial_dims=dims,
        in_channels=in_channels,
        out_channels=out_channels,
        kernel_size=kernel,
        stride=stride,
        norm_name=("instance", {"affine": True}),
        act_name=("leakyrelu", {"inplace": True, "negative_slope": SLOPE}),
        dropout=dropout,
    )
    return block


def _initialise(module: nn.Module) -> None:
    """Draw weights as nnU-Net does (InitWeights_He)."""
    if isinstance(module, nn.Conv2d | nn.Conv3d | nn.ConvTranspose2d | nn.ConvTranspose3d):
        nn.init.kaiming_normal_(module.weight, a=SLOPE)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
