"""Which errors end what a process can do on a GPU."""

import pytest
import torch

from bench.core.gpu.errors import ends_cuda


@pytest.mark.parametrize(
    "error",
    [
        torch.AcceleratorError("CUDA error: an illegal memory access was encountered"),
        RuntimeError("CUDA error: device-side assert triggered\nCUDA kernel errors might be..."),
        RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"),
        RuntimeError("CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasSgemm(...)`"),
    ],
)
def test_an_error_of_cuda_ends_it(error):
    assert ends_cuda(error)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
        RuntimeError("mat1 and mat2 shapes cannot be multiplied (2x3 and 4x5)"),
        ValueError("a user's loss: labels are missing"),
        KeyboardInterrupt(),
    ],
)
def test_what_torch_or_a_user_refuses_does_not(error):
    assert not ends_cuda(error)
