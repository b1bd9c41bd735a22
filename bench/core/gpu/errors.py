"""What goes wrong on a GPU: of a trial alone, or of the whole process."""

import torch


def ends_cuda(error: BaseException) -> bool:
    """Whether CUDA refuses all that this process asks of it after an error.

    Memory that does not suffice is no such error, nor one raised by Python or by torch's checks.
    """
    if isinstance(error, torch.OutOfMemoryError):
        return False
    told = str(error)
    return isinstance(error, torch.AcceleratorError) or any(name in told for name in _OF_LIBRARIES)


# As torch's checks of what a library returned begin (c10/cuda, ATen/cuda/Exceptions.h).
_OF_LIBRARIES = ("CUDA error", "cuDNN error", "CUBLAS_STATUS", "NCCL error", "CUFFT_")
