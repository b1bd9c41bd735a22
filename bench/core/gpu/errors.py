"""Errors on a GPU: those of a trial only, and those that end the whole process."""

import torch


def ends_cuda(error: BaseException) -> bool:
    """Return whether CUDA refuses all further calls of this process after an error.

    Running out of memory is not such an error, nor is one raised by Python or by torch's checks.
    """
    if isinstance(error, torch.OutOfMemoryError):
        return False
    told = str(error)
    return isinstance(error, torch.AcceleratorError) or any(name in told for name in _OF_LIBRARIES)


# How torch's checks of a library's return codes begin (c10/cuda, ATen/cuda/Exceptions.h).
_OF_LIBRARIES = ("CUDA error", "cuDNN error", "CUBLAS_STATUS", "NCCL error", "CUFFT_")
