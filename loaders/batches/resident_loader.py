"""Batches from a store that lies on the device as a whole: nothing but positions is transferred.

For small images on a GPU, where the other loaders' work on the CPU takes longer than a step. A few
kernels take the pixels of all patches of a batch, flipped and placed, from one long tensor. Rotated
and zoomed samples come from loaders.batches.torch_loader, which interpolates on the CPU.
"""

import functools
from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from loaders.batches.ahead import one_ahead
from loaders.batches.request import Request, fill_of
from loaders.batches.torch_loader import Batch, gather
from loaders.batches.upload import uploaded
from loaders.memory import usable_memory
from loaders.sampling.intensity import alter
from loaders.sampling.sampler import Draws, Indices
from loaders.store.read import Store

# The share of a device's free memory that a store may take: networks need the rest. Assumption.
SHARE = 0.5
# torch has few operators for uint16, so such pixels lie there as int16.
_AS = {np.dtype(np.uint16): np.dtype(np.int16)}


@dataclass(frozen=True, kw_only=True)
class _Resident:
    """A store's arrays on a device, one after the other.

    `pixels` and `labels` (None: no masks) are one-dimensional; `first` (n,) is where the pixels of
    each case begin, in voxels of one channel.
    """

    pixels: torch.Tensor
    labels: torch.Tensor | None
    first: Indices


_held: dict[tuple[object, ...], _Resident] = {}


def resident_batches(request: Request) -> Generator[Batch]:
    """Yield the batches of a request; raises ValueError if the store does not fit on the device.

    Without noise, contrast and gamma the batches are those of `torch_batches`, bit for bit; with
    them a GPU rounds otherwise. A process keeps the last store that it used on the device.
    """
    held = _resident(request.store, request.device)
    return one_ahead(_stream(request, held))


def _stream(request: Request, held: _Resident) -> Generator[Batch]:
    store, device = request.store, request.device
    answers = None if store.meta.masked else uploaded(np.array(store.answers), device)
    for batch in range(request.batches):
        draws = request.draw(batch)
        yield Batch(*_made(store, draws, held, answers, device))


def _made(
    store: Store,
    draws: Draws,
    held: _Resident,
    answers: torch.Tensor | None,
    device: torch.device,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the samples of `draws`: image and target as in Batch."""
    patch, channels = draws.patch, len(store.meta.channels)
    columns = (..., *[None] * len(patch))
    first, volume = held.first[draws.case][:, None], store.shapes[draws.case].prod(axis=1)[:, None]
    steps, inside = _along_axes(store, draws)
    # One transfer for all places, and one for all scales.
    places = np.concatenate(
        [channels * first + np.arange(channels) * volume, first, *steps], axis=1
    )
    planes, start, *rest = torch.split(uploaded(places, device), [channels, 1, *patch], dim=1)
    scales = uploaded(np.concatenate([draws.offset, draws.gain], axis=1), device)
    offset, gain = (part[columns] for part in torch.split(scales, channels, dim=1))
    outside = None
    if not all(part.all() for part in inside):
        flags = torch.split(uploaded(np.concatenate(inside, axis=1), device), list(patch), dim=1)
        outside = ~functools.reduce(torch.logical_and, _spread(flags))

    # The place of each voxel (n, *patch) in its image, and so among all.
    within = functools.reduce(torch.add, _spread(rest))
    raw = torch.take(held.pixels, planes[columns] + within[:, None])
    if store.image_type == np.uint16:
        raw = raw.to(torch.int32).bitwise_and_(0xFFFF)
    # (raw - offset) * gain, rounded as in loaders.batches.torch_loader.
    image = raw.to(torch.float32) - offset
    if outside is not None:
        image = torch.where(outside[:, None], float(np.float32(fill_of(store))) - offset, image)
    image *= gain
    if held.labels is None:
        assert answers is not None
        target = answers[uploaded(draws.case, device)]
    else:
        target = torch.take(held.labels, start[columns][:, 0] + within)
        if outside is not None:
            target = target.masked_fill_(outside, 0)
    _finish(store, draws, image, target, device)
    return image, target


def _along_axes(store: Store, draws: Draws) -> tuple[list[Indices], list[NDArray[np.bool_]]]:
    """Return for each axis what it adds to a voxel's place, and which are inside: (n, side) each.

    Outside, the place is that of the nearest voxel inside.
    """
    shapes = store.shapes[draws.case]
    steps, inside = [], []
    for axis, side in enumerate(draws.patch):
        along = np.arange(side)
        at = np.where(draws.flip[:, axis, None], along[::-1], along) + draws.origin[:, axis, None]
        nearest = at.clip(0, shapes[:, axis, None] - 1)
        steps.append(nearest * shapes[:, axis + 1 :].prod(axis=1)[:, None])
        inside.append(at == nearest)
    return steps, inside


def _spread(parts: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Return values of each axis (n, side) in a form that combines to (n, *patch)."""
    dims = len(parts)
    return [
        part.reshape(len(part), *[-1 if other == axis else 1 for other in range(dims)])
        for axis, part in enumerate(parts)
    ]


def _finish(
    store: Store, draws: Draws, image: torch.Tensor, target: torch.Tensor, device: torch.device
) -> None:
    """Rotated samples from the torch loader, noise, contrast and gamma to the others, in place."""
    warped = draws.warped
    if warped.any():
        rows = np.flatnonzero(warped)
        pixels, labels = gather(store, draws[rows])
        at = uploaded(rows, device)
        image[at] = uploaded(pixels, device)
        if store.meta.masked:
            target[at] = uploaded(labels, device)
        # `gather` has altered these.
        plain = ~warped
        draws = replace(
            draws,
            noise=np.where(plain, draws.noise, 0),
            contrast=np.where(plain[:, None], draws.contrast, 1),
            gamma=np.where(plain[:, None], draws.gamma, 1),
        )
    if device.type == "cpu":
        alter(image.numpy(), draws, lambda values: values)
    else:
        alter(image, draws, lambda values: uploaded(values, device))


def _resident(store: Store, device: torch.device) -> _Resident:
    """Return a store on the device, from an earlier trial of this process if it is there."""
    outside = None if store.outside is None else (store.outside.path, store.outside.content_hash)
    key = store.path, store.content_hash, outside, str(device)
    if key not in _held:
        _held.clear()
        _held[key] = _loaded(store, device)
    return _held[key]


def _loaded(store: Store, device: torch.device) -> _Resident:
    voxels: NDArray[np.int64] = store.shapes.prod(axis=1)
    channels, kind = len(store.meta.channels), store.image_type
    total = int(voxels.sum())
    needed = total * (channels * kind.itemsize + store.meta.masked)
    free = usable_memory() if device.type == "cpu" else torch.cuda.mem_get_info(device)[0]
    if needed > SHARE * free:
        raise ValueError(
            f"store {store.path} takes {needed / 2**30:.1f} GiB on the device, which has "
            f"{free / 2**30:.1f} GiB free, of which loader resident takes {SHARE:.0%} at most: "
            "set another loader in the study"
        )

    first = np.cumsum(voxels) - voxels
    lies = _AS.get(kind, kind)
    like = torch.from_numpy(np.empty(0, lies)).to(device)
    pixels = like.new_empty(total * channels)
    labels = like.new_empty(total, dtype=torch.uint8) if store.meta.masked else None
    for case, (start, count) in enumerate(zip(first.tolist(), voxels.tolist(), strict=True)):
        part = slice(channels * start, channels * (start + count))
        pixels[part] = torch.from_numpy(np.array(store.image(case)).view(lies).reshape(-1))
        if labels is not None:
            answer = np.array(store.mask(case), dtype=np.uint8).reshape(-1)
            labels[start : start + count] = torch.from_numpy(answer)
    return _Resident(pixels=pixels, labels=labels, first=first)
