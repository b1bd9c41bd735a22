"""Batches by NVIDIA DALI: its operators cut the patch, flip it and scale its intensity.

The only file that imports nvidia.dali, and that when it is used. DALI is handed the memory maps of
whole volumes without a copy, so that only the pages of the patch are ever read, by its threads.
(fn.readers.numpy can read a region too, but maps its file anew for each sample; that costs 12 to
30 % more, measured on a CPU.) The code is one for CPU and GPU: with a GPU the patch is cut on the
host, then flipped and scaled on the device.
"""

from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, closing
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch.utils.dlpack import from_dlpack

from loaders.host import Batch, fill_of
from loaders.sampler import Draws, Sampler, batch_positions
from loaders.store import Store

LAYOUT = {2: "CHW", 3: "CDHW"}
# For the last axes, in their order: what fn.flip calls the axis, and what fn.crop_mirror_normalize
# calls the size and the place of the crop along it.
AXES = (
    ("depthwise", "crop_d", "crop_pos_z"),
    ("vertical", "crop_h", "crop_pos_y"),
    ("horizontal", "crop_w", "crop_pos_x"),
)


def open_dali(
    store: Store,
    sampler: Sampler,
    *,
    batch_size: int,
    batches: int,
    start: int = 0,
    shard: tuple[int, int] = (0, 1),
    threads: int,
    device: torch.device,
) -> AbstractContextManager[Iterator[Batch]]:
    """Open the stream of `batches` global batches from position `start` on, for one rank.

    `batch_size` is the global one; rank and world in `shard`. DALI works in `threads` threads and
    is at most two batches ahead. On a CPU the batches are those of `open_torch`, bit for bit; a GPU
    may round once where the CPU rounds twice. Raises ValueError; ImportError where there is no
    DALI.
    """
    _import_dali()
    fill_of(store)

    def draw(batch: int) -> Draws:
        positions = batch_positions(batch, batch_size=batch_size, start=start, shard=shard)
        return sampler.draw(positions)

    draw(0)  # What is wrong with the arguments is raised here rather than at the first batch.
    return closing(_one_ahead(_stream(store, draw, batches, threads, device)))


def _one_ahead(stream: Generator[Batch]) -> Generator[Batch]:
    """Take the next batch in a thread of its own while the caller works with this one.

    DALI reads and augments in its threads, but a pipeline's own work in Python, about a millisecond
    a batch, is done by whoever calls it (measured: a tenth of a small network's step).
    """
    pool = ThreadPoolExecutor(1, thread_name_prefix="dali")
    try:
        following = pool.submit(next, stream, None)
        while (batch := following.result()) is not None:
            following = pool.submit(next, stream, None)
            yield batch
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
        stream.close()


def _stream(
    store: Store, draw: Callable[[int], Draws], batches: int, threads: int, device: torch.device
) -> Generator[Batch]:
    # fn.crop_mirror_normalize cuts the patch as well. An operator of its own does it where that one
    # cannot: where it would fill with what is already normalised, and on a GPU, to which the whole
    # volume would have to go.
    cut = device.type == "cuda" or bool((store.shapes < draw(0).patch).any())
    # What DALI has been handed and has not given back: it works on this very memory.
    fed: deque[tuple[Draws, list[Any]]] = deque()

    def feed(batch: int) -> list[Any]:
        if batch == batches:
            raise StopIteration
        draws = draw(batch)
        fed.append((draws, list(pipeline_inputs(store, draws, cut=cut).values())))
        return fed[-1][1]

    pipeline = build_pipeline(store, draw(0), feed, cut=cut, threads=threads, device=device)
    try:
        for _ in range(batches):
            # No copy here either: DALI gives its buffers away and does not write to them again.
            image, *mask = (from_dlpack(out.as_tensor()) for out in pipeline.run())
            case = fed.popleft()[0].case
            target = mask[0][:, 0] if mask else torch.from_numpy(store.labels[case]).to(device)
            yield Batch(image, target)
    finally:
        # What DALI has the garbage collector do, at a known time: its threads end here.
        pipeline.__del__()


def pipeline_inputs(store: Store, draws: Draws, *, cut: bool) -> dict[str, Any]:
    """Return one batch as `build_pipeline` takes it in, by the names that DALI's operators use."""
    axes = AXES[-len(draws.patch) :]
    inputs: dict[str, Any] = {"mean": draws.centre, "std": draws.spread}
    flips = draws.flip.T.astype(np.int32, order="C")
    inputs |= {axis[0]: flip for axis, flip in zip(axes, flips, strict=True)}
    if cut:
        inputs["start"] = draws.origin.astype(np.int32)
    else:
        # DALI's way to place a crop: the share of the room that lies before it. Rounded to float32
        # it still says which voxel, up to 2**22 of them along an axis.
        room = np.maximum(store.shapes[draws.case] - draws.patch, 1)
        places = (draws.origin / room).T.astype(np.float32, order="C")
        inputs |= {axis[2]: place for axis, place in zip(axes, places, strict=True)}
    cases = draws.case.tolist()
    # Whole arrays (C, *spatial) and (1, *spatial), each of its own size.
    inputs["image"] = [np.asarray(store.image(case)) for case in cases]
    if store.meta.task == "segmentation":
        inputs["mask"] = [np.asarray(store.mask(case))[None] for case in cases]
    return inputs


def build_pipeline(
    store: Store,
    like: Draws,
    feed: Callable[[int], list[Any]],
    *,
    cut: bool,
    threads: int,
    device: torch.device,
) -> Any:
    """Return the DALI pipeline that turns the `pipeline_inputs` of a batch into the batch.

    `feed(k)` gives the values of the k-th batch; `like` are draws of the same batch size and patch.
    Images come out float32 (B, C, *patch), masks uint8 (B, 1, *patch).
    """
    dali = _import_dali()
    fn, types = dali.fn, dali.types
    dims, gpu = len(like.patch), device.type == "cuda"
    axes, layout = AXES[-dims:], LAYOUT[dims]
    names = list(pipeline_inputs(store, like, cut=cut))
    pipeline = dali.pipeline.Pipeline(
        batch_size=len(like),
        num_threads=threads,
        device_id=device.index if gpu else None,
        prefetch_queue_depth=2,
    )
    with pipeline:
        nodes = fn.external_source(
            source=feed,
            num_outputs=len(names),
            batch=True,
            no_copy=True,
            layout=[layout if name in ("image", "mask") else "" for name in names],
        )
        given = dict(zip(names, nodes, strict=True))
        crop = {size: side for (_, size, _), side in zip(axes, like.patch, strict=True)}
        crop |= {place: given[place] for _, _, place in axes if place in given}
        upright = {flip: given[flip] for flip, _, _ in axes[:-1]}
        intensity = {"mean": given["mean"], "std": given["std"]}
        outputs = []
        for name, dtype, fill, scaling in (
            ("image", types.FLOAT, fill_of(store), intensity),
            ("mask", types.UINT8, 0.0, {}),
        ):
            if name not in given:
                continue
            patch = given[name]
            if cut:
                patch = fn.slice(
                    patch,
                    start=given["start"],
                    shape=like.patch,
                    axes=tuple(range(1, dims + 1)),
                    out_of_bounds_policy="pad",
                    fill_values=[fill],
                )
            if gpu:
                patch = patch.gpu()
            patch = fn.crop_mirror_normalize(
                patch,
                mirror=given["horizontal"],
                dtype=dtype,
                output_layout=layout,
                **crop,
                **scaling,
            )
            # The other axes: fn.crop_mirror_normalize knows the horizontal alone.
            outputs.append(fn.flip(patch, horizontal=0, **upright))
        pipeline.set_outputs(*outputs)
    pipeline.build()
    return pipeline


def _import_dali() -> ModuleType:
    try:
        from nvidia import dali
    except ImportError as error:
        raise ImportError(
            f"NVIDIA DALI cannot be imported ({error}): set `loader: torch` in the study, which "
            "gives the same batches, or install nvidia-dali-cuda130 (Linux alone has it)"
        ) from error
    return dali
