"""What the tests of several processes share."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

PROGRAM = Path(__file__).with_name("gloo.py")
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def on_gloo(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., dict[tuple[int, ...], list[Any]]]:
    """Return a function of modules to import first -> {shares: what each process returned}.

    The processes are as the test's own SHARES and work() say: see gloo.py.
    """

    def run(*modules: str, seconds: float = 240) -> dict[tuple[int, ...], list[Any]]:
        folder = tmp_path_factory.mktemp("gloo")
        # Everything stays on this machine.
        own = {"GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
        done = subprocess.run(
            [sys.executable, str(PROGRAM), str(request.path), str(folder), ",".join(modules)],
            env=os.environ | own,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=seconds,
            check=False,
        )
        assert done.returncode == 0, done.stdout
        return {
            shares: [torch.load(folder / f"{number}-{rank}.pt") for rank in range(len(shares))]
            for number, shares in enumerate(request.module.SHARES)
        }

    return run
