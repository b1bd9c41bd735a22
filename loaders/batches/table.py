"""The loaders, which turn a store and a sampler into batches: one row each."""

from collections.abc import Callable, Generator, Iterator
from contextlib import AbstractContextManager, closing
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from loaders.batches.ahead import Derive
    from loaders.batches.request import Request
    from loaders.batches.torch_loader import Batch
    from loaders.sampling.sampler import Recipe, Sampler
    from loaders.store.read import Store


@dataclass(frozen=True, kw_only=True)
class LoaderRow:
    """A way to turn a store and a sampler into batches on a device.

    `batches(request)` yields exactly the requested batches. All loaders yield the same ones, bit
    for bit unless `rounds(recipe, device)` is true for a kind of device, cpu or cuda.
    """

    name: str
    summary: str
    batches: Callable[["Request"], Generator["Batch"]]
    available: Callable[[], bool]
    rounds: Callable[["Recipe", str], bool]

    def open(
        self,
        store: "Store",
        sampler: "Sampler",
        *,
        derive: "Derive | None" = None,
        **asked: Any,
    ) -> AbstractContextManager[Iterator["Batch"]]:
        """Open a stream of batches: a context manager over their iterator.

        `asked` are the other fields of a loaders.batches.request.Request. With `derive`, each batch
        has values derived from its targets while the caller works with the previous batch. Raises
        ValueError, and ImportError if the loader's package is missing.
        """
        from loaders.batches.request import Request

        batches = self.batches(Request(store=store, sampler=sampler, **asked))
        if derive is None:
            return closing(batches)
        from loaders.batches.ahead import with_derived

        return closing(with_derived(batches, derive))


def _dali(request: "Request") -> Generator["Batch"]:
    from loaders.batches.dali_loader import dali_batches

    return dali_batches(request)


def _torch(request: "Request") -> Generator["Batch"]:
    from loaders.batches.torch_loader import torch_batches

    return torch_batches(request)


def _monai(request: "Request") -> Generator["Batch"]:
    from loaders.batches.monai_loader import monai_batches

    return monai_batches(request)


def _resident(request: "Request") -> Generator["Batch"]:
    from loaders.batches.resident_loader import resident_batches

    return resident_batches(request)


def _has_dali() -> bool:
    return find_spec("nvidia") is not None and find_spec("nvidia.dali") is not None


LOADERS: dict[str, LoaderRow] = {
    row.name: row
    for row in (
        LoaderRow(
            name="dali",
            summary="NVIDIA DALI: reads patches and augments in its own threads, or on the GPU",
            batches=_dali,
            available=_has_dali,
            # On a GPU it rounds once where a CPU rounds twice, and warps with its own operator.
            rounds=lambda _recipe, device: device == "cuda",
        ),
        LoaderRow(
            name="torch",
            summary="numpy and torch only: the same batches where DALI has no wheel",
            batches=_torch,
            available=lambda: True,
            rounds=lambda _recipe, _device: False,
        ),
        LoaderRow(
            name="monai",
            summary="MONAI's cache, transforms and DataLoader: whole volumes in memory",
            batches=_monai,
            available=lambda: find_spec("monai") is not None,
            # It interpolates with its own operator.
            rounds=lambda recipe, _device: recipe.warps,
        ),
        LoaderRow(
            name="resident",
            summary="the whole store in the GPU's memory: for small sets and small networks",
            batches=_resident,
            available=lambda: True,
            # Noise, contrast and gamma are computed there; all else is exact.
            rounds=lambda recipe, device: device == "cuda" and recipe.alters,
        ),
    )
}

# By device, the fastest first. On CPU cores, our torch loader takes two thirds of DALI's time or
# less in every case. On an H200, training on patches of 128^3 waited for DALI in 0.08 % of the
# time, for torch in 1.5 %; steps on images of 28 x 28 were shorter by torch (3.9 ms against 5.1),
# where training is short anyway. All measured (LOG.md). `resident` is not for every store.
FASTEST = {"cpu": ("torch", "dali", "monai"), "cuda": ("dali", "torch", "monai")}


def fastest_loader(device: str) -> str:
    """Return the loader that `loader: auto` chooses for a kind of device, cpu or cuda."""
    return next(name for name in FASTEST[device] if LOADERS[name].available())
