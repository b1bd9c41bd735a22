"""Two epochs of each task x loader x kind of step: the same bits as at another commit.

`MEDOPT_BASE` names that commit (default: the last one). It is checked out beside this one and runs
its own `numerics.py` in the same environment; what both know must be equal.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = Path("tests/golden/numerics.py")

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def hashes(checkout: Path) -> dict[str, str]:
    done = subprocess.run(
        [sys.executable, str(checkout / SCRIPT)],
        cwd=checkout,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=True,
        capture_output=True,
        text=True,
    )
    return json.loads(done.stdout)


def test_bits_are_those_of_another_commit(tmp_path):
    base = os.environ.get("MEDOPT_BASE", "HEAD")
    git = ["git", "-C", str(ROOT)]
    if not (ROOT / ".git").exists():
        pytest.skip("this is no git checkout, so there is no other commit to compare with")
    known = subprocess.run(
        [*git, "cat-file", "-e", f"{base}:{SCRIPT}"], check=False, capture_output=True
    )
    if known.returncode:
        pytest.skip(f"commit {base} has no {SCRIPT}")
    other = tmp_path / "other"
    subprocess.run([*git, "worktree", "add", "--detach", str(other), base], check=True)
    try:
        before, now = hashes(other), hashes(ROOT)
    finally:
        subprocess.run([*git, "worktree", "remove", "--force", str(other)], check=True)
    assert len(now) == 60
    assert {name: now[name] for name in before} == before
