"""Noise, contrast and gamma: what is done to a sample's values once they are normalised.

One code for arrays and for tensors on any device, so that every loader gives the same values.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from loaders.sampling.sampler import Draws

# Names the noise's streams of draws, beside those of the sampler.
_NOISE = (3,)


def altered(draws: Draws) -> NDArray[np.bool_]:
    """Return which samples (n,) `alter` changes."""
    levels = (draws.contrast != 1) | (draws.gamma != 1)
    changed: NDArray[np.bool_] = (draws.noise > 0) | levels.any(axis=1)
    return changed


def alter(image: Any, draws: Draws, place: Callable[[NDArray[np.float32]], Any]) -> None:
    """Change samples (B, C, *patch) in place: noise, then contrast, then gamma, as nnU-Net has it.

    `image` is a float32 array or tensor; `place` brings an array to where it is.

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
    """Return a sample's noise (C, *patch) float32: seed and position in the stream decide it."""
    seed, position = draws.key[row].tolist()
    state = np.random.SeedSequence([seed, position], spawn_key=_NOISE).generate_state(1)
    # torch's numbers take a third of the time of numpy's quickest (measured).
    generator = torch.Generator().manual_seed(int(state[0]))
    values: NDArray[np.float32] = torch.randn(
        (draws.offset.shape[1], *draws.patch), generator=generator
    ).numpy()
    values *= draws.noise[row]
    return values
