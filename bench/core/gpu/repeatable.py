"""Makes a GPU's kernels give the same bits in each run if they can, and names those that cannot."""

import os
import re
import warnings
from collections.abc import Callable
from typing import Any

import torch

# cuBLAS needs this to give the same bits in each run: eight buffers of 4 MiB (NVIDIA, cuBLAS,
# "Results reproducibility"). It is read when CUDA starts.
_WORKSPACE = {"CUBLAS_WORKSPACE_CONFIG": ":4096:8"}
_UNREPEATABLE = re.compile(r"(\S+) does not have a deterministic implementation")


def before_cuda() -> None:
    """Set variables that CUDA reads when it starts; those set by the user are kept."""
    for name, value in _WORKSPACE.items():
        os.environ.setdefault(name, value)


def repeat(*, tf32: bool, benchmark: bool = False) -> set[str]:
    """Make this process's GPU kernels repeat their bits where they can.

    Returns a set to which, until the next call, the names of operators are added that run without
    repeating their bits.

    `tf32`: convolutions, recurrent layers and matrix products of float32 round their factors to
    TF32 (10 bits of mantissa); otherwise they follow IEEE 754. torch's own default is TF32 for
    convolutions and IEEE for matrix products. `benchmark`: cuDNN tries the kernels that repeat
    their bits and keeps the fastest, which may be another one in another run.
    """
    torch.use_deterministic_algorithms(mode=True, warn_only=True)
    # Otherwise each new tensor is filled with NaN: hundreds of kernels per step, which write memory
    # that is overwritten at once. Reading memory before it is written is an operator's bug.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # torch's stub lacks it
    # Not by `fp32_precision`, which is newer: torch.backends.cudnn.flags() raises after it (2.14).
    torch.backends.cuda.matmul.allow_tf32 = tf32
    torch.backends.cudnn.allow_tf32 = tf32
    torch.backends.cudnn.benchmark = benchmark
    return _named_from_now_on()


class _Listener:
    """Takes the place of Python's `showwarning`: notes the operators, and passes all else on."""

    def __init__(self, elsewhere: Callable[..., None]) -> None:
        self._elsewhere = elsewhere
        self.named: set[str] = set()

    def __call__(self, message: Warning | str, *rest: Any, **more: Any) -> None:
        if match := _UNREPEATABLE.match(str(message)):
            self.named.add(match[1])
        else:
            self._elsewhere(message, *rest, **more)


def _named_from_now_on() -> set[str]:
    # Each time, not once per line of code: the next trial of this process needs it too.
    warnings.filterwarnings("always", _UNREPEATABLE.pattern)
    shows = warnings.showwarning
    listener = shows if isinstance(shows, _Listener) else _Listener(shows)
    warnings.showwarning = listener
    listener.named = set()
    return listener.named
