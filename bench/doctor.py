"""What works on this machine, what does not, and what to do about it."""

import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

import psutil
import torch

from bench.core.environment import device_name, versions
from loaders.batches.table import LOADERS, fastest_loader
from loaders.cores import usable_cores

# A store of BraTS 2021 (1,251 cases, four channels of int16 and a mask) takes about 90 GB. With
# less free space than this, even a small study may fill the disk. Assumption.
LOW_DISK_GB = 5

State = Literal["ok", "note", "problem"]


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing that was checked; `advice` says what to do if it is not ok."""

    what: str
    state: State
    detail: str
    advice: str = ""


def _python() -> Finding:
    return Finding(what="Python", state="ok", detail=f"{versions()['python']}, {sys.executable}")


def _processor() -> Finding:
    memory = psutil.virtual_memory().total / 2**30
    name = device_name(torch.device("cpu"))
    there, usable = os.cpu_count() or 1, usable_cores()
    cores = f"{there} cores" + (f", {usable} of them usable" if usable < there else "")
    return Finding(what="processor", state="ok", detail=f"{name}, {cores}, {memory:.0f} GiB")


def _gpus() -> Finding:
    if torch.cuda.is_available():
        names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
        return Finding(what="GPUs", state="ok", detail=", ".join(names))
    if torch.version.cuda is None:
        return Finding(
            what="GPUs",
            state="note",
            detail="this build of torch has no CUDA; trials run on the CPU",
            advice="to use GPUs, install a CUDA build of torch",
        )
    return Finding(
        what="GPUs",
        state="note",
        detail=f"torch (CUDA {torch.version.cuda}) found none; trials run on the CPU",
        advice="if there is one, `nvidia-smi` should list it; if it does not, check the driver",
    )


def _loaders() -> Finding:
    works = [name for name, row in LOADERS.items() if row.available()]
    missing = [name for name in LOADERS if name not in works]
    auto = fastest_loader("cuda" if torch.cuda.is_available() else "cpu")
    return Finding(
        what="loaders",
        state="note" if missing else "ok",
        detail=f"{', '.join(works)} can be used; `loader: auto` takes {auto}",
        advice=f"not installed: {', '.join(missing)}; the others give the same samples"
        if missing
        else "",
    )


def _ray() -> Finding:
    if find_spec("ray") is None:
        return Finding(
            what="Ray",
            state="problem",
            detail="not installed: `medopt run --ray` will not work",
            advice="install ray[default,train,tune]",
        )
    mode = os.environ.get("RAY_AUTH_MODE", "not set: a local Ray gets its own token")
    return Finding(what="Ray", state="ok", detail=f"{versions()['ray']}, RAY_AUTH_MODE {mode}")


def _disk() -> Finding:
    free = shutil.disk_usage(Path.cwd()).free / 1e9
    low = free < LOW_DISK_GB
    return Finding(
        what="disk",
        state="problem" if low else "ok",
        detail=f"{free:.0f} GB free here",
        advice="a full disk stops a run (it can be resumed): free some space, or write elsewhere"
        if low
        else "",
    )


def _packages() -> Finding:
    missing = [name for name, v in versions().items() if v == "not installed"]
    known = ", ".join(f"{n} {v}" for n, v in versions().items() if v != "not installed")
    advice = f"not installed: {', '.join(missing)}" if missing else ""
    return Finding(what="versions", state="note" if missing else "ok", detail=known, advice=advice)


CHECKS: tuple[Callable[[], Finding], ...] = (
    _python,
    _processor,
    _gpus,
    _loaders,
    _ray,
    _disk,
    _packages,
)


def examine() -> list[Finding]:
    """Check everything that a run depends on."""
    return [check() for check in CHECKS]
