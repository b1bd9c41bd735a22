"""Noise, contrast and gamma, applied to a sample's normalised values.

The same code serves arrays and tensors on any device, so that all loaders give the same values.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from loaders.sampling.sampler import Draws

# Identifies the noise's random streams, separate from those of the sampler.
_NOISE = (3,)


def altered(draws: Draws) -> NDArray[np.bool_]:
    """Return which samples (n,) `alter` changes."""
    levels = (draws.contrast != 1) | (draws.gamma != 1)
    changed: NDArray[np.bool_] = (draws.noise > 0) | levels.any(axis=1)
    return changed


def alter(image: Any, draws: Draws, place: Callable[[NDArray[np.float32]], Any]) -> None:
    """Change samples (B, C, *patch) in place: noise, then contrast, then gamma, as in nnU-Net.

    `image` is a float32 array or tensor; `place` moves an array to its device.

    contrast: m + f (x - m), m the channel's mean, kept within the channel's range (batchgenerators'
    ContrastAugmentationTransform, preserve_range). gamma: l + r ((x - l) / r) ** g, l and r the
    channel's minimum and range (MONAI's AdjustContrast).
    """
    for row in np.flatnonzero(altered(draws)).tolist():
        if draws.noise[row]:
            image[row] += place(noise(draws, row))
        for channel, factor, exponent in zip(
            image[row], draws.contrast[row].tolist(), draws.gamma[row].tolist(), strict=True
        ):
            if factor != 1:
                _contrast(channel, factor)
            if exponent != 1:
                _gamma(channel, exponent)


def _contrast(channel: Any, factor: float) -> None:
    low, high = channel.min(), channel.max()
    channel *= factor
    channel += channel.mean() * (1 / factor - 1)
    channel[...] = channel.clip(low, high)


def _gamma(channel: Any, exponent: float) -> None:
    low, high = channel.min(), channel.max()
    # A constant channel: 0 / 1 and back.
    span = high - low + (high == low)
    channel -= low
    channel /= span
    channel **= exponent
    channel *= span
    channel += low


def noise(draws: Draws, row: int) -> NDArray[np.float32]:
    """Return a sample's noise (C, *patch) float32, decided by seed and position in the stream."""
    seed, position = draws.key[row].tolist()
    state = np.random.SeedSequence([seed, position], spawn_key=_NOISE).generate_state(1)
    # torch takes a third of the time of numpy's fastest generator (measured).
    generator = torch.Generator().manual_seed(int(state[0]))
    values: NDArray[np.float32] = torch.randn(
        (draws.offset.shape[1], *draws.patch), generator=generator
    ).numpy()
    values *= draws.noise[row]
    return values
