"""Transfer of batches to a GPU from memory that it reads directly, while the host continues."""

from typing import Any

import numpy as np
import torch


def ready_for(device: torch.device, array: np.ndarray[Any, Any]) -> torch.Tensor:
    """Return an array as a tensor that `sent` can transfer immediately.

    For a GPU this is a copy in page-locked memory, which torch reuses. This is the slow half, and a
    loader's thread may do it.
    """
    tensor = torch.from_numpy(array)
    return tensor.pin_memory() if device.type == "cuda" else tensor


def sent(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Return a tensor made by `ready_for` on the device, without waiting.

    The copy is queued in the device's stream, before any later work. torch does not reuse the
    page-locked memory before the copy is done.
    """
    return tensor.to(device, non_blocking=True)


def uploaded(array: np.ndarray[Any, Any], device: torch.device) -> torch.Tensor:
    """Return an array on the device, without waiting for the device's work."""
    return sent(ready_for(device, array), device)
