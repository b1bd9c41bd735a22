"""A process that is forked for a test is as one that is started anew."""

import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from bench.core import processes
from bench.core.processes import Beside
from tests.forks import Forked, able

pytestmark = pytest.mark.skipif(not able(), reason="none is forked here")

# Says what it is, then ends as it is told to.
CODE = """
import os, signal, sys
from bench.core.processes import begun_beside
pipe, cargo = begun_beside()
open_files = sorted(int(n) for n in os.listdir("/proc/self/fd"))
print("printed")
print("warned", file=sys.stderr, flush=True)
pipe.send([{
    "name": __name__,
    "folder": os.getcwd(),
    "own": os.environ.get("OWN"),
    "session": os.getsid(0) == os.getpid(),
    "parent": os.getppid(),
    "input": sys.stdin.read(),
    "cargo": cargo,
    "files": len(open_files),
    "child": "bench.execution.child" in sys.modules,
}])
exec(pipe.recv())
"""


@pytest.fixture(params=[pytest.param("anew", marks=pytest.mark.fresh), "forked"])
def beside(request, tmp_path, monkeypatch):
    """Return a process that runs CODE, by either way, and the file of its output."""
    assert (processes.subprocess.Popen is Forked) == (request.param == "forked")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(Path(processes.__file__).parents[2]))
    with (tmp_path / "output").open("wb") as output:
        started = Beside(CODE, {"given": 7}, output.fileno(), {"OWN": "own"})
    yield started
    started.end()


def said(beside):
    (found,) = beside.heard(60, dict)
    return found


def test_it_is_a_child_of_its_own_session_with_what_it_was_given(beside, tmp_path):
    found = said(beside)
    assert (
        found.pop("files") <= 6
    )  # three, its pipe, the folder that was listed, a source of chance
    assert found == {
        "name": "__main__",
        "folder": str(tmp_path),
        "own": "own",
        "session": True,
        "parent": os.getpid(),
        "input": "",
        "cargo": {"given": 7},
        "child": False,
    }
    assert beside.number in {child.pid for child in psutil.Process().children()}
    beside.say("")
    beside.heard(60, dict)
    assert beside.end() == "exit status 0"
    assert (tmp_path / "output").read_text().split() == ["printed", "warned"]


@pytest.mark.parametrize(
    ("code", "how", "words"),
    [
        ("sys.exit(3)", "exit status 3", ""),
        ("sys.exit('in words')", "exit status 1", "in words"),
        ("os._exit(4)", "exit status 4", ""),
        ("raise ValueError('planted')", "exit status 1", "ValueError: planted"),
        ("os.abort()", "SIGABRT", ""),
        ("signal.pause()", "SIGTERM", ""),
    ],
)
def test_how_it_ends_is_told(beside, tmp_path, code, how, words):
    said(beside)
    beside.say(code)
    if how == "SIGTERM":
        beside.warn()
    beside.heard(60, dict)  # until its pipe is closed
    assert beside.ended()
    assert beside.end() == how
    assert words in (tmp_path / "output").read_text()


def test_orphans_of_others_are_none_of_this_process(beside):
    said(beside)
    code = """
import os, time
number = os.fork()
if not number:
    os.close(1)
    time.sleep(60)
print(number)
"""
    found = subprocess.run(
        [sys.executable, "-c", code], check=True, stdout=subprocess.PIPE, timeout=30
    )
    orphan = psutil.Process(int(found.stdout))
    try:
        assert orphan.ppid() != os.getpid()
    finally:
        orphan.kill()
