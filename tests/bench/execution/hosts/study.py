"""A study of trials of a second and a half, and what a run of it has to be, whatever befell it."""

import json
import os
import subprocess
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import yaml

from results.tables.store import read
from tests.bench.execution.hosts.cluster import Cluster, wait
from tests.bench.execution.hosts.namespaces import BIN, ROOT, SHARED

# A trial has four steps in training, which take so long whatever else the machine does.
LOSSES = """
import os
import time

from torch.nn.functional import cross_entropy


PACE = float(os.environ.get("PACE", "0.3"))


def paced(logits, target):
    '''Cross-entropy whose steps in training take PACE seconds.'''
    if logits.requires_grad:
        time.sleep(PACE)
    return cross_entropy(logits, target)
"""


# The study of the tests, and one that lasts longer, of which it is a part: seeds -> trials.
SEEDS, MORE_SEEDS = 10, 30
OF_A_SEED = 4


def make_studies(folder: Path) -> None:
    """Write the studies, their loss and their data into the folder that hosts share."""
    from loaders.cases import Item, Survey
    from loaders.store.write import write_store
    from tests.conftest import SMALL, small_meta

    (folder / "losses.py").write_text(LOSSES)
    item = Item(key="all", paths=(), extra={"count": 40, "side": 16})
    survey = Survey(meta=small_meta("classification", 2), items=(item,), rejected=())
    write_store(SMALL, survey, folder / "store", key=b"test", workers=1, strict=True)
    for seeds in (SEEDS, MORE_SEEDS):
        text = {
            "name": f"faults-{seeds}",
            "data": ["store"],
            "models": ["plain_cnn"],
            "optimizers": ["sgd", "adam"],
            "losses": ["losses.py:paced"],
            "seeds": list(range(seeds)),
            "epochs": 2,
            "folds": 2,
            "batch_size": 8,
            "device": "cpu",
            "threads": 1,
        }
        (folder / f"study-{seeds}.yaml").write_text(yaml.safe_dump(text))


def undisturbed(folder: Path) -> dict[str, list[str]]:
    """Run the longer study here, without hosts and Ray; return its rows of `metrics` by trial."""
    done = subprocess.run(
        [str(BIN / "medopt"), "run", f"study-{MORE_SEEDS}.yaml", "--lanes", "1"],
        cwd=folder,
        env={**os.environ, "PACE": "0", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = metrics(folder / "runs" / f"faults-{MORE_SEEDS}")
    assert len(found) == MORE_SEEDS * OF_A_SEED
    return found


def metrics(run: Path) -> dict[str, list[str]]:
    """Return the rows of `metrics` by trial, as text, in order."""
    found: dict[str, list[str]] = {}
    for row in read(run, "metrics").to_pylist():
        found.setdefault(row["trial_id"], []).append(str(row))
    return {trial: sorted(rows) for trial, rows in found.items()}


@dataclass
class Run:
    """A run of a study on a cluster, by the command, from its head.

    `disk` is the folder of the run's own disk, as the head sees it, None where runs share one.
    """

    cluster: Cluster
    name: str
    seeds: int = SEEDS
    disk: Path | None = None
    driver: "subprocess.Popen[str]" = field(init=False)
    _begun: int = field(init=False, default=0)

    @property
    def trials(self) -> int:
        return self.seeds * OF_A_SEED

    @property
    def folder(self) -> Path:
        """The run folder, as this machine sees it."""
        there = self._there
        if self.disk is None:
            return self.cluster.folder / there.relative_to(SHARED)
        return Path(f"/proc/{self.cluster.head.first}/root", *there.parts[1:])

    @property
    def _there(self) -> Path:
        return (self.disk or SHARED / "runs") / self.name

    @property
    def _words(self) -> Path:
        return self.cluster.folder / f"{self.name}.txt"

    def start(self) -> None:
        """Start the run, or go on with it."""
        with self._words.open("a") as out:
            self._begun = out.tell()
            self.driver = self.cluster.head.start(
                BIN / "medopt", "run", f"study-{self.seeds}.yaml", "--ray", self.cluster.address,
                "--out", self._there, stdout=out, stderr=out,
            )  # fmt: skip

    def said(self) -> str:
        """Return what the command has said since it was started last."""
        return self._words.read_text(errors="replace")[self._begun :]

    def state(self) -> dict[str, Any]:
        """Return what the driver told last, empty before its first word."""
        path = self.folder / "status.json"
        return json.loads(path.read_text()) if path.exists() else {}

    def hosts(self) -> set[str]:
        """Return the hosts that have a trial in hand, as the driver told last."""
        return {each["host"] for each in self.state().get("running", ())}

    def lanes(self) -> set[str]:
        """Return the lanes that have a trial in hand, as the driver told last."""
        return {each["lane"] for each in self.state().get("running", ())}

    def reach(self, done: int, seconds: float = 600) -> None:
        """Wait until so many trials are done, and others are in hand."""

        def reached() -> bool:
            assert not self.ended(), self.said()
            state = self.state()
            return bool(state) and state["done"] >= done and bool(state["running"])

        wait(f"{done} trials done", reached, seconds)

    def ended(self) -> bool:
        return self.driver.poll() is not None

    def failed(self) -> int:
        statuses = read(self.folder, "trials", columns=("status",)).column(0).to_pylist()
        return statuses.count("failed")

    def wrong(self, expected: dict[str, list[str]]) -> list[str]:
        """Return what is wrong with a run that has ended; `expected` are metrics as they should be.

        A trial may have failed if the run says why.
        """
        trials = read(self.folder, "trials").to_pylist()
        statuses = Counter(row["status"] for row in trials)
        found: list[str] = []
        if statuses["ok"] + statuses["failed"] != self.trials or len(trials) != self.trials:
            found.append(f"of {self.trials} trials there are {dict(statuses)}")
        found += [
            f"trial {row['trial_id']} failed without a reason"
            for row in trials
            if row["status"] == "failed" and not row["reason"]
        ]
        written = Counter(
            trial
            for path in (self.folder / "trials").rglob("*.parquet")
            for trial in pq.read_table(path, columns=["trial_id"]).column(0).to_pylist()
        )
        found += [f"trial {trial} stands {n} times" for trial, n in written.items() if n > 1]
        mine = metrics(self.folder)
        found += [
            f"the metrics of trial {row['trial_id']} are others than undisturbed"
            for row in trials
            if row["status"] == "ok" and mine[row["trial_id"]] != expected[row["trial_id"]]
        ]
        found += [
            f"{path.relative_to(self.folder)} was left"
            for place in (".writing", "checkpoints")
            for path in (self.folder / place).rglob("*")
        ]
        if self.state()["ended"] != "done":
            found.append(f"it ended {self.state()['ended']!r}")
        return found
