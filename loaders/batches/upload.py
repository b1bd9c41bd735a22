"""Batches on their way to a GPU: from memory that it reads by itself, while the host goes on."""

from typing import Any

import numpy as np
import torch


def ready_for(device: torch.device, array: np.ndarray[Any, Any]) -> torch.Tensor:
    """Return an array as a tensor that `sent` can take over at once.

    For a GPU that is a copy in page-locked memory, which torch keeps for the next one. This is the
    slow half, and a loader's thread may do it.
    """
    tensor = torch.from_numpy(array)
    return tensor.pin_memory() if device.type == "cuda" else tensor


def sent(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Return a tensor made by `ready_for` on the device, without a wait.

    The copy stands in the stream of the device's work, before whatever is asked of it next. torch
    lends page-locked memory to nobody else before the copy is done.
    """
    return tensor.to(device, non_blocking=True)


def uploaded(array: np.ndarray[Any, Any], device: torch.device) -> torch.Tensor:
    """Return an array on the device, without a wait for its work."""
    return sent(ready_for(device, array), device)
