"""What the tests of several processes share."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from bench.core.processes import Beside, starting
from tests.forks import stand_in

PROGRAM = starting("tests.bench.gloo")


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
        own = {"GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"}
        cargo = {"test": str(request.path), "folder": str(folder), "modules": modules}
        output = folder / "output"
        with pytest.MonkeyPatch.context() as patch, output.open("wb") as file:
            patch.setattr("bench.core.processes.subprocess", stand_in())
            program = Beside(PROGRAM, cargo, file.fileno(), own)
        try:
            program.heard(seconds, tuple)  # until it is over: it says nothing
            assert program.ended(), f"not done within {seconds:g} s"
        finally:
            how = program.end()
        assert how == "exit status 0", output.read_text()
        return {
            shares: [torch.load(folder / f"{number}-{rank}.pt") for rank in range(len(shares))]
            for number, shares in enumerate(request.module.SHARES)
        }

    return run
