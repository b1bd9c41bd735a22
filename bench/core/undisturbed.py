"""Restores the state of the process that the user's own code may change while it runs.

A loss that changes the working folder, ignores a signal or makes float64 the default would decide
where the next trial reads, whether Ctrl-C stops the run, and what the next trial's numbers are.
What cannot be restored (a closed pipe, a lowered priority) ends the process, or is the user's
responsibility.
"""

import gc
import logging
import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class _Kept:
    """One part of the state: how it is read, and how it is set."""

    read: Callable[[], Any]
    write: Callable[[Any], object]


def _folder() -> str | None:
    try:
        return os.getcwd()  # noqa: PTH109  # as text, as it is compared and set
    except FileNotFoundError:
        return None  # it was removed


def _umask() -> int:
    now = os.umask(0o077)
    os.umask(now)
    return now


def _set_environment(value: dict[str, str]) -> None:
    os.environ.clear()
    os.environ.update(value)


def _set_streams(value: tuple[Any, Any, Any]) -> None:
    sys.stdin, sys.stdout, sys.stderr = value


def _set_path(value: list[str]) -> None:
    sys.path[:] = value


def _alarm() -> bool:
    return signal.getitimer(signal.ITIMER_REAL)[0] > 0


def _signals() -> dict[int, Any]:
    found = {number: signal.getsignal(number) for number in signal.valid_signals()}
    return {number: handler for number, handler in found.items() if handler is not None}


def _set_signals(value: dict[int, Any]) -> None:
    for number, handler in value.items():
        if signal.getsignal(number) is not handler:
            signal.signal(number, handler)


_PROCESS = (
    _Kept(read=_folder, write=os.chdir),
    _Kept(read=_umask, write=os.umask),
    _Kept(read=lambda: dict(os.environ), write=_set_environment),
    _Kept(read=lambda: (sys.stdin, sys.stdout, sys.stderr), write=_set_streams),
    _Kept(
        read=lambda: list(sys.path), write=lambda value: sys.path.__setitem__(slice(None), value)
    ),
    _Kept(read=sys.getrecursionlimit, write=sys.setrecursionlimit),
    _Kept(read=gc.isenabled, write=lambda value: gc.enable() if value else gc.disable()),
    _Kept(read=lambda: logging.root.manager.disable, write=logging.disable),
)

# Python sets signals only in the main thread, so code in other threads cannot change them.
_MAIN_THREAD = (
    _Kept(read=_signals, write=_set_signals),
    _Kept(
        read=lambda: signal.getitimer(signal.ITIMER_REAL)[0] > 0, write=lambda _: signal.alarm(0)
    ),
)


def _of_torch() -> tuple[_Kept, ...]:
    """Return the state of torch and numpy, if they are loaded: otherwise nobody can change it."""
    torch, numpy = sys.modules.get("torch"), sys.modules.get("numpy")
    found: list[_Kept] = []
    if numpy is not None:
        found.append(_Kept(read=numpy.geterr, write=lambda value: numpy.seterr(**value)))
    if torch is not None and hasattr(torch, "set_deterministic_debug_mode"):
        cudnn = torch.backends.cudnn
        found += [
            _Kept(read=torch.get_default_dtype, write=torch.set_default_dtype),
            _Kept(read=torch.get_default_device, write=torch.set_default_device),
            _Kept(read=torch.is_grad_enabled, write=torch.set_grad_enabled),
            _Kept(read=torch.is_anomaly_enabled, write=torch.autograd.set_detect_anomaly),
            # Set only if it was changed: setting it twice makes steps slower (measured).
            _Kept(read=torch.get_num_threads, write=torch.set_num_threads),
            _Kept(
                read=torch.get_float32_matmul_precision, write=torch.set_float32_matmul_precision
            ),
            _Kept(
                read=torch.get_deterministic_debug_mode, write=torch.set_deterministic_debug_mode
            ),
            *(
                _Kept(
                    read=lambda name=name: getattr(cudnn, name),  # type: ignore[misc]  # one a name
                    write=lambda value, name=name: setattr(cudnn, name, value),  # type: ignore[misc]  # as above
                )
                for name in ("enabled", "benchmark", "deterministic", "allow_tf32")
            ),
        ]
    return tuple(found)


@contextmanager
def undisturbed() -> Iterator[None]:
    """Restore at the end of the block what it changed of this process.

    Raises OSError if that cannot be done: a working folder that was removed, for instance.
    """
    main = threading.current_thread() is threading.main_thread()
    kept = (*_PROCESS, *(_MAIN_THREAD if main else ()), *_of_torch())
    before = [(one, one.read()) for one in kept]
    with warnings.catch_warnings():
        try:
            yield
        finally:
            for one, value in before:
                if one.read() != value:
                    one.write(value)
