"""Facts about this machine and this installation, which results record and `doctor` shows."""

import platform
import re
import subprocess
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from bench.core.packages import ROOT

PACKAGES = (
    "medoptbench",
    "torch",
    "torchvision",
    "ray",
    "monai",
    "nvidia-dali-cuda130",
    "numpy",
    "scikit-learn",
    "pydicom",
    "nibabel",
    "pyarrow",
)


@cache
def versions() -> dict[str, str]:
    """Return the installed version of each package that a result may depend on."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


@cache
def git_commit() -> str | None:
    """Return the commit of this source tree with `-dirty` if it has changes; None outside git."""
    if not (ROOT / ".git").exists():
        return None
    command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--abbrev=40"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=20)  # noqa: S603  # a fixed command on our own folder
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


@cache
def device_name(device: torch.device) -> str:
    """Return the name of a GPU, or of the processor."""
    if device.type == "cuda":
        return str(torch.cuda.get_device_name(device))
    info = Path("/proc/cpuinfo")
    found = (
        re.search(r"^model name\s*:\s*(.+)$", info.read_text(), re.MULTILINE)
        if info.exists()
        else None
    )
    return found[1] if found else platform.processor() or platform.machine()
