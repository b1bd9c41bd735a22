"""Batches by NVIDIA DALI: its operators cut the patch, flip it and scale its intensity.

This is the only file that imports nvidia.dali, and only when it is used. DALI gets the memory maps
of whole volumes without a copy, so that its threads read only the pages of the patch.
(fn.readers.numpy can read a region too, but maps its file again for each sample, which costs 12 to
30 % more, measured on a CPU.) With a GPU, the patch, or the box from which a rotated one is read,
is cut on the host and transferred in the store's type; the device rotates, flips and scales it.
Noise, contrast and gamma come from loaders.sampling.intensity, on the device.
"""

from collections import deque
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch.utils.dlpack import from_dlpack

from loaders.batches.ahead import one_ahead
from loaders.batches.request import Request, fill_of
from loaders.batches.torch_loader import Batch, gather
from loaders.batches.upload import uploaded
from loaders.sampling.affine import boxes
from loaders.sampling.intensity import alter, altered
from loaders.sampling.sampler import Draws
from loaders.store.read import Store

LAYOUT = {2: "CHW", 3: "CDHW"}
# For the last axes, in their order: the axis's name in fn.flip, and the names of the crop's size
# and position along it in fn.crop_mirror_normalize.
AXES = (
    ("depthwise", "crop_d", "crop_pos_z"),
    ("vertical", "crop_h", "crop_pos_y"),
    ("horizontal", "crop_w", "crop_pos_x"),
)


def dali_batches(request: Request) -> Generator[Batch]:
    """Yield the batches of a request; raises ImportError immediately if there is no DALI.

    DALI works in the request's threads and is at most two batches ahead. On a CPU, the batches are
    those of `torch_batches`, bit for bit; a GPU may round once where the CPU rounds twice.

    DALI reads and augments in its threads, but its caller does a pipeline's work in Python, about a
    millisecond a batch (measured: a tenth of a small network's step): here a thread that is one
    batch ahead.
    """
    _import_dali()
    return one_ahead(_stream(request))


def _stream(request: Request) -> Generator[Batch]:
    store, recipe, device = request.store, request.sampler.recipe, request.device
    first, gpu = request.draw(0), device.type == "cuda"
    # fn.crop_mirror_normalize cuts the patch as well. A separate operator does it where that is
    # impossible: where the fill would have to be normalised already, and on a GPU, to which the
    # whole volume would have to be transferred.
    slices = gpu or recipe.translate > 0 or bool((store.shapes < first.patch).any())
    # On a CPU fn.warp_affine takes eight times as long as loaders.sampling.affine (measured): there
    # the rotated samples are written over what DALI made of them.
    warps = gpu and recipe.warps
    # What DALI has been handed and has not given back: it works on this very memory.
    in_use: deque[tuple[Draws, list[Any]]] = deque()

    def feed(batch: int) -> list[Any]:
        if batch == request.batches:
            raise StopIteration
        draws = request.draw(batch)
        inputs = pipeline_inputs(store, draws, slices=slices, warps=warps)
        in_use.append((draws, list(inputs.values())))
        return in_use[-1][1]

    pipeline = build_pipeline(
        store, first, feed, slices=slices, warps=warps, threads=request.threads, device=device
    )
    pool = ThreadPoolExecutor(request.threads, thread_name_prefix="batches")
    try:
        for _ in range(request.batches):
            # No copy here either: DALI hands its buffers over and does not write to them again. On
            # a GPU they arrive in stream order, without waiting for DALI's work.
            stream = torch.cuda.current_stream(device) if gpu else None
            image, *mask = (from_dlpack(out.as_tensor()) for out in pipeline.run(stream))
            draws = in_use.popleft()[0]
            target = mask[0][:, 0] if mask else uploaded(store.answers[draws.case], device)
            if gpu:
                alter(image, draws, lambda values: uploaded(values, device))
            else:
                rest = np.flatnonzero(draws.warped | altered(draws))
                list(pool.map(partial(_finish, store, draws, image, target), rest.tolist()))
            yield Batch(image, target)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
        # DALI leaves this to the garbage collector; here its threads end at a known time.
        pipeline.__del__()


def _finish(
    store: Store, draws: Draws, image: torch.Tensor, target: torch.Tensor, row: int
) -> None:
    """Do to a sample on a CPU what DALI does not, with the torch loader's code."""
    one = draws[row : row + 1]
    if draws.warped[row]:
        pixels, answer = gather(store, one)
        image[row], target[row] = torch.from_numpy(pixels[0]), torch.as_tensor(answer[0])
    else:
        alter(image[row : row + 1].numpy(), one, lambda values: values)


def pipeline_inputs(store: Store, draws: Draws, *, slices: bool, warps: bool) -> dict[str, Any]:
    """Return one batch as the input of `build_pipeline`, by the names in DALI's operators."""
    axes = AXES[-len(draws.patch) :]
    inputs: dict[str, Any] = {"mean": draws.offset, "std": draws.unit}
    if warps:
        # The matrices include the flips.
        where = boxes(draws, store.shapes[draws.case])
        inputs["start"] = where.low.astype(np.int32)
        inputs["shape"] = (where.high - where.low).astype(np.int32)
        # In DALI the last axis comes first, and a voxel's centre is at one half.
        linear, offset = where.maps[:, ::-1, -2::-1], where.maps[:, ::-1, -1:]
        offset = offset + 0.5 - linear.sum(axis=2, keepdims=True) / 2
        matrix = np.concatenate([linear, offset], axis=2)
        inputs["matrix"] = matrix.astype(np.float32, order="C")
    else:
        flips = draws.flip.T.astype(np.int32, order="C")
        inputs |= {axis[0]: flip for axis, flip in zip(axes, flips, strict=True)}
    if slices and not warps:
        inputs["start"] = draws.origin.astype(np.int32)
    elif not warps:
        # DALI places a crop by the share of the free room that is before it. Rounded to float32, it
        # still identifies the voxel, up to 2**22 of them along an axis.
        room = np.maximum(store.shapes[draws.case] - draws.patch, 1)
        places = (draws.origin / room).T.astype(np.float32, order="C")
        inputs |= {axis[2]: place for axis, place in zip(axes, places, strict=True)}
    cases = draws.case.tolist()
    # Whole arrays (C, *spatial) and (1, *spatial), each with its own size.
    inputs["image"] = [np.asarray(store.image(case)) for case in cases]
    if store.meta.masked:
        inputs["mask"] = [np.asarray(store.mask(case))[None] for case in cases]
    return inputs


def build_pipeline(
    store: Store,
    first: Draws,
    feed: Callable[[int], list[Any]],
    *,
    slices: bool,
    warps: bool,
    threads: int,
    device: torch.device,
) -> Any:
    """Return the DALI pipeline that turns the `pipeline_inputs` of a batch into the batch.

    `feed(k)` gives the values of the k-th batch; `first`: draws of the same batch size and patch.
    With `slices`, a separate operator cuts the patch. With `warps`, every sample goes through
    fn.warp_affine, which leaves those that are not rotated unchanged, bit for bit. Images come
    out as float32 (B, C, *patch), masks as uint8 (B, 1, *patch).
    """
    dali = _import_dali()
    fn, types = dali.fn, dali.types
    dims, gpu = len(first.patch), device.type == "cuda"
    axes, layout = AXES[-dims:], LAYOUT[dims]
    names = list(pipeline_inputs(store, first, slices=slices, warps=warps))
    pipeline = dali.pipeline.Pipeline(
        batch_size=len(first),
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
        crop = {size: side for (_, size, _), side in zip(axes, first.patch, strict=True)}
        crop |= {place: given[place] for _, _, place in axes if place in given}
        flips = {flip: given[flip] for flip, _, _ in axes if flip in given}
        intensity = {"mean": given["mean"], "std": given["std"]}
        outputs = []
        for name, dtype, fill, scaling, interpolation in (
            ("image", types.FLOAT, fill_of(store), intensity, types.INTERP_LINEAR),
            ("mask", types.UINT8, 0.0, {}, types.INTERP_NN),
        ):
            if name not in given:
                continue
            patch = given[name]
            if slices or warps:
                patch = fn.slice(
                    patch,
                    start=given["start"],
                    shape=given.get("shape", first.patch),
                    axes=tuple(range(1, dims + 1)),
                    out_of_bounds_policy="pad",
                    fill_values=[fill],
                )
            if gpu:
                patch = patch.gpu()
            if warps:
                if name == "image" and store.image_type == np.uint16:
                    # The only type that fn.warp_affine does not accept.
                    patch = fn.cast(patch, dtype=types.FLOAT)
                # It needs the channel last: a sequence of one-channel images, whose frames are the
                # channels.
                patch = fn.expand_dims(patch, axes=[dims + 1], new_axis_names="K")
                patch = fn.reinterpret(patch, layout=f"F{layout[1:]}C")
                patch = fn.warp_affine(
                    patch,
                    matrix=given["matrix"],
                    size=first.patch,
                    fill_value=fill,
                    interp_type=interpolation,
                    dtype=dtype,
                )
                patch = fn.reinterpret(fn.squeeze(patch, axes=[dims + 1]), layout=layout)
            patch = fn.crop_mirror_normalize(
                patch,
                dtype=dtype,
                output_layout=layout,
                **crop,
                **scaling,
            )
            if flips:
                # All axes in one pass; fn.crop_mirror_normalize can mirror only one of them, which
                # would save nothing (measured).
                patch = fn.flip(patch, **{"horizontal": 0, **flips})
            outputs.append(patch)
        pipeline.set_outputs(*outputs)
    pipeline.build()
    return pipeline


def _import_dali() -> ModuleType:
    try:
        from nvidia import dali
    except ImportError as error:
        raise ImportError(
            f"NVIDIA DALI cannot be imported ({error}): set `loader: torch` in the study, which "
            "gives the same batches, or install nvidia-dali-cuda130 (only for Linux)"
        ) from error
    return dali
