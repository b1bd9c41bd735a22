"""What one addition costs: patches that add a thing of each kind, each with a limit of files.

Each is applied to a copy of the checkout, where the tests that go over its table take it in without
an edit, and a study of two trials uses it. Where a patch no longer applies, its change is made anew
and `git diff` written over it.
"""

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml

pytestmark = pytest.mark.timeout(600)

ROOT = Path(__file__).resolve().parent.parent
PATCHES = Path(__file__).parent / "patches"
MEDOPT = "from bench.cli import main; main()"

# Stands in the copy: data sets as a user's own functions give them, 24 cases of 16 x 16 pixels.
OWN_DATA = """
import numpy as np
from loaders.cases import Case, Meta


def made(task, classes, regions, case):
    meta = Meta(
        kind="own", name=task, task=task, dims=2, channels=("intensity",), classes=classes,
        regions=regions, positive=1 if len(classes) == 2 and not regions else None,
        normalize="train", fill=0.0, unit="image", group_source="case", source="made by a test",
        licence="none", options={},
    )
    return meta, (case(np.random.default_rng(n), n) for n in range(24))


def labelled(rng, n, classes):
    image = (40 + 60 * (n % classes) + 20 * rng.normal(size=(1, 16, 16))).clip(0, 255)
    return Case(key=str(n), group=str(n), image=image.astype(np.uint8), label=n % classes,
                mask=None, spacing=(1.0, 1.0))


def classification():
    return made("classification", ("dark", "bright"), {}, lambda rng, n: labelled(rng, n, 2))


def grading():
    return made("grading", ("0", "1", "2"), {}, lambda rng, n: labelled(rng, n, 3))


def outlined(rng, n):
    mask = np.zeros((16, 16), np.uint8)
    y, x = rng.integers(0, 8, 2)
    mask[y : y + 8, x : x + 8] = 1
    image = (60 + 90 * mask[None] + 20 * rng.normal(size=(1, 16, 16))).clip(0, 255)
    return Case(key=str(n), group=str(n), image=image.astype(np.uint8), label=None, mask=mask,
                spacing=(1.0, 1.0))


def segmentation():
    return made("segmentation", ("background", "square"), {"square": (1,)}, outlined)
"""


@dataclass(frozen=True, kw_only=True)
class Addition:
    """One patch of tests/patches, `name`.patch.

    `most` is how many files it may touch. `contract`: tests of the copy that go over the table it
    adds a row to, as arguments of pytest. `data` is what its study names, `study` what else it says
    beside the smallest one; `found` is what a column of `trials` then holds.
    """

    name: str
    most: int
    contract: tuple[str, ...]
    data: str = "own.py:classification"
    study: dict[str, object]
    found: tuple[str, str]


ADDITIONS = [
    Addition(
        name="new_axis",
        most=3,
        contract=("tests/bench/study/test_axes.py",),
        study={"augmentations": ["strong"]},
        found=("augmentation", "strong"),
    ),
    Addition(
        name="new_task",
        most=4,
        contract=("tests/bench/study/test_tasks.py",),
        data="own.py:grading",
        study={},
        found=("task", "grading"),
    ),
    Addition(
        name="new_optimizer",
        most=1,
        contract=("tests/bench/optimizers/test_table.py", "-k", "tiger"),
        study={"optimizers": ["tiger"]},
        found=("optimizer", "tiger"),
    ),
    Addition(
        name="new_loss",
        most=4,
        contract=("tests/bench/losses/test_table.py", "-k", "border_ce"),
        data="own.py:segmentation",
        study={"models": ["unet_small"], "losses": ["border_ce"]},
        found=("loss", "border_ce"),
    ),
    Addition(
        name="new_data_kind",
        most=2,
        contract=("tests/bench/test_cli.py", "-k", "list"),
        data="store",
        study={},
        found=("dataset", "made"),
    ),
]


def checkout(copy: Path, patch: Path) -> Path:
    """Copy the tracked files of this checkout, and apply a patch to them."""
    tracked = subprocess.check_output(["git", "ls-files", "-z"], cwd=ROOT, text=True)
    for name in tracked.rstrip("\0").split("\0"):
        to = copy / name
        to.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, to)
    # Where the copy lies within a repository, git would take its paths for those of that one.
    run(["git", "apply", str(patch)], copy, GIT_CEILING_DIRECTORIES=str(copy.parent))
    (copy / "own.py").write_text(OWN_DATA, encoding="utf-8")
    return copy


def run(command: list[str], copy: Path, **variables: str) -> None:
    """Run a command in a checkout, on its code; what it printed is told where it fails."""
    environment = {
        **os.environ,
        "PYTHONPATH": str(copy),
        "MEDOPT_KEY": "test",
        "OMP_NUM_THREADS": "1",
        **variables,
    }
    done = subprocess.run(
        command, cwd=copy, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{command} failed:\n{done.stdout}\n{done.stderr}"


def test_every_patch_is_tried():
    assert {path.stem for path in PATCHES.iterdir()} == {addition.name for addition in ADDITIONS}


@pytest.mark.parametrize("addition", ADDITIONS, ids=lambda addition: addition.name)
def test_a_patch_still_fits(addition):
    """Told at once: what it does is tried by the slow test alone."""
    run(["git", "apply", "--check", str(PATCHES / f"{addition.name}.patch")], ROOT)


@pytest.mark.slow
@pytest.mark.parametrize("addition", ADDITIONS, ids=lambda addition: addition.name)
def test_an_addition_is_few_files_and_works(addition, tmp_path):
    patch = PATCHES / f"{addition.name}.patch"
    touched = [
        line
        for line in patch.read_text(encoding="utf-8").splitlines()
        if line.startswith("diff --git ")
    ]
    assert 0 < len(touched) <= addition.most
    copy = checkout(tmp_path / "copy", patch)
    quiet = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider"]
    run([*quiet, "tests/test_architecture.py"], copy)
    run([*quiet, *addition.contract], copy)

    medopt = [sys.executable, "-c", MEDOPT]
    if addition.data == "store":
        labels = np.arange(24) % 2
        noise = 20 * np.random.default_rng(0).normal(size=(24, 16, 16))
        images = (60 + 90 * labels[:, None, None] + noise).clip(0, 255).astype(np.uint8)
        np.savez(copy / "made.npz", images=images, labels=labels)
        run([*medopt, "prepare", "npz", "made.npz", "--out", "store"], copy)
    study = {
        "name": "two",
        "data": [addition.data],
        "models": ["plain_cnn"],
        "optimizers": ["adam"],
        "losses": ["ce"],
        "folds": 2,  # of one combination: two trials
        "epochs": 1,
        "batch_size": 4,
        "patch": [16, 16],
        "threads": 1,
        "device": "cpu",
        **addition.study,
    }
    (copy / "study.yaml").write_text(yaml.safe_dump(study), encoding="utf-8")
    run([*medopt, "run", "study.yaml", "--out", "run"], copy)
    trials = pq.read_table(copy / "run" / "trials").to_pylist()
    column, name = addition.found
    assert [(row["status"], row[column]) for row in trials] == [("ok", name)] * 2
