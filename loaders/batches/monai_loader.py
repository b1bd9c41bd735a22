"""Batches by MONAI: its cache, transforms and DataLoader, with the same draws.

Whole volumes are kept in memory as float32 tensors, as is usual with MONAI. The samples are those
of `torch_batches`, bit for bit if nothing is interpolated; rotated ones differ by rounding.
"""

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import cycle, islice
from typing import Any

import numpy as np
import torch
from monai.data.dataloader import DataLoader
from monai.data.dataset import CacheDataset
from monai.transforms.compose import Compose
from monai.transforms.croppad.array import BorderPad, SpatialCrop
from monai.transforms.spatial.array import Affine, Flip
from monai.transforms.utility.array import EnsureType, Lambda
from monai.utils.type_conversion import convert_to_tensor
from torch import Tensor
from torch.utils.data import Dataset

from loaders.batches.request import Request, fill_of
from loaders.batches.torch_loader import Batch
from loaders.sampling.intensity import alter
from loaders.sampling.sampler import Draws, Indices, Sampler
from loaders.store.read import Store

# The limit of CacheDataset; further cases are read again each time. It is enough for the stores of
# the ready studies, and small compared with the memory of a training machine (assumption).
CACHE_BYTES = 4 * 2**30


def monai_batches(request: Request) -> Generator[Batch]:
    """Yield the batches of a request: each of its threads has a DataLoader of its own.

    The k-th DataLoader makes every threads-th batch, starting at the k-th.
    """
    threads, device = request.threads, request.device
    # Not ThreadDataLoader: if a sample raises, its thread dies and the stream ends as if it were
    # complete; and its workers reseed torch's generator, which the training uses.
    dataset = _Samples(request.store, request.sampler, threads)
    loaders = [
        iter(
            DataLoader(
                dataset,
                batch_sampler=_Batches(request.positions, range(first, request.batches, threads)),
                num_workers=0,
                # Otherwise it would draw from torch's generator, which the training uses.
                generator=torch.Generator().manual_seed(0),
            )
        )
        for first in range(threads)
    ]
    pool = ThreadPoolExecutor(threads, thread_name_prefix="batches")
    try:
        # One batch of each loader ahead, and never two jobs for one loader.
        ahead = [pool.submit(next, loader, None) for loader in loaders]
        for nth in islice(cycle(range(threads)), request.batches):
            batch: Any = ahead[nth].result()
            ahead[nth] = pool.submit(next, loaders[nth], None)
            yield Batch(batch["image"].to(device), batch["target"].to(device))
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


class _Batches:
    """The positions of some batches, as a DataLoader's batch sampler."""

    def __init__(self, positions: Callable[[int], Indices], batches: Iterable[int]) -> None:
        self.positions, self.batches = positions, batches

    def __iter__(self) -> Iterator[list[int]]:
        return (self.positions(batch).tolist() for batch in self.batches)


class _Cases(Sequence[dict[str, Any]]):
    """The training part's whole images, as CacheDataset reads them."""

    def __init__(self, store: Store, cases: Indices) -> None:
        self.store, self.cases = store, cases

    def __len__(self) -> int:
        return len(self.cases)

    def __getitem__(self, index: Any) -> Any:
        case = int(self.cases[index])
        masked = self.store.meta.masked
        return {
            "image": np.array(self.store.image(case), dtype=np.float32),
            "mask": np.array(self.store.mask(case))[None] if masked else None,
        }


class _Samples(Dataset[dict[str, Any]]):
    """Samples by position in the stream, a batch at once, as torch's DataLoader requests them."""

    def __init__(self, store: Store, sampler: Sampler, threads: int) -> None:
        self.store, self.sampler, self.fill = store, sampler, fill_of(store)
        cases = np.unique(sampler.cases)
        self.place = {case: place for place, case in enumerate(cases.tolist())}
        # For float32 images and uint8 masks.
        voxels = store.shapes[cases].prod(axis=1)
        sizes = voxels * (4 * len(store.meta.channels) + store.meta.masked)
        tensors = EnsureType(track_meta=False)
        self.whole = CacheDataset(
            _Cases(store, cases),
            Compose(
                [Lambda(lambda case: {k: v if v is None else tensors(v) for k, v in case.items()})]
            ),
            cache_num=int((sizes.cumsum() <= CACHE_BYTES).sum()),
            num_workers=threads,
            progress=False,
        )

    def __getitems__(self, positions: list[int]) -> list[dict[str, Any]]:
        draws = self.sampler.draw(np.array(positions))
        return [self._sample(draws, row) for row in range(len(draws))]

    def _sample(self, draws: Draws, row: int) -> dict[str, Any]:
        case = int(draws.case[row])
        whole = self.whole[self.place[case]]
        image = _cut(whole["image"], draws, row, self.fill, "bilinear")
        columns = (..., *[None] * len(draws.patch))
        offset, gain = torch.from_numpy(draws.offset[row]), torch.from_numpy(draws.gain[row])
        image = (image - offset[columns]) * gain[columns]
        alter(image[None].numpy(), draws[row : row + 1], lambda values: values)
        if whole["mask"] is None:
            return {"image": image, "target": torch.as_tensor(self.store.answers[case])}
        mask = _cut(whole["mask"], draws, row, 0.0, "nearest")
        return {"image": image, "target": mask[0].to(torch.uint8)}


def _cut(whole: Tensor, draws: Draws, row: int, fill: float, mode: str) -> Tensor:
    """Return a patch (C, *patch) of a whole image, flipped; MONAI takes 0 outside the image."""
    patch, shape = np.array(draws.patch), np.array(whole.shape[1:])
    origin = draws.origin[row]
    low = np.clip(origin, 0, shape)
    high = np.clip(origin + patch, low, shape)
    if draws.warped[row]:
        # From the centre of the patch to the centre of the image.
        affine = np.eye(len(patch) + 1)
        affine[:-1, :-1] = draws.matrix[row]
        affine[:-1, -1] = origin + (patch - 1) / 2 - (shape - 1) / 2
        turn = Affine(
            affine=affine,
            spatial_size=draws.patch,
            mode=mode,
            padding_mode="zeros",
            image_only=True,
        )
        cut: Any = turn(whole - fill)
        cut += fill
    elif (low == high).any():
        # No part of the image: for MONAI an empty crop is one voxel wide.
        cut = torch.full((len(whole), *draws.patch), fill, dtype=whole.dtype)
    else:
        cut = SpatialCrop(roi_start=low, roi_end=high)(whole)
        if (high - low < patch).any():
            border = np.stack([low - origin, origin + patch - high], axis=1).ravel().tolist()
            cut = BorderPad(border, mode="constant", value=fill)(cut)
    axes = np.flatnonzero(draws.flip[row]).tolist()
    if axes:
        cut = Flip(spatial_axis=axes)(cut)
    # Transforms return MetaTensors, which would slow every later operation.
    plain: Tensor = convert_to_tensor(cut, track_meta=False)
    return plain
