"""Batches fetched ahead, in a thread of their own, while the caller works with the previous one."""

from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

from loaders.batches.torch_loader import Batch

# targets (B, ...) -> values derived from them (B, ...)
Derive = Callable[[torch.Tensor], torch.Tensor]
T = TypeVar("T")


def one_ahead(stream: Generator[T]) -> Generator[T]:
    """Yield what `stream` yields, at most one item ahead; closing this closes `stream`."""
    pool = ThreadPoolExecutor(1, thread_name_prefix="ahead")
    try:
        following = pool.submit(next, stream, None)
        while (one := following.result()) is not None:
            following = pool.submit(next, stream, None)
            yield one
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
        stream.close()


def with_derived(stream: Generator[Batch], derive: Derive) -> Generator[Batch]:
    """Yield each batch with `derived` computed from its targets, at most one batch ahead."""

    def derived() -> Generator[Batch]:
        try:
            for batch in stream:
                yield batch._replace(derived=derive(batch.target))
        finally:
            stream.close()

    return one_ahead(derived())
