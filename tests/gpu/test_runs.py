"""Whole runs on a GPU by their public entry: to a verdict, side by side, past a full memory."""

import pytest
import torch
import yaml

from bench import api
from results.tables.store import read

pytestmark = pytest.mark.gpu

STUDY = {
    "name": "small",
    # Its operators repeat their bits.
    "models": [{"plain_cnn": {"pool": "average"}}],
    "optimizers": ["sgd", "adam"],
    "losses": ["ce"],
    "folds": 3,
    "epochs": 4,
    "batch_size": 4,
    "threads": 1,
}
OWN = '''
"""A loss that takes all the memory that there is."""

import torch
from torch.nn.functional import cross_entropy


def fills(logits, target):
    if len(logits) <= 3:  # a plan tries it, with three samples
        return cross_entropy(logits, target)
    # Not the whole card, which others may use: it is what this process may have of it.
    total = torch.cuda.get_device_properties(logits.device).total_memory
    torch.cuda.set_per_process_memory_fraction(2**30 / total, logits.device)
    held = []
    while True:
        held.append(torch.empty(2**26, dtype=torch.uint8, device=logits.device))
'''


@pytest.fixture(scope="module")
def study(small_store, device, tmp_path_factory):
    """Return a maker of study files."""

    def make(**changes):
        path = tmp_path_factory.mktemp("study") / "small.yaml"
        path.with_name("own.py").write_text(OWN)
        data = {"data": [str(small_store("classification", 2).path)], "device": device.type}
        path.write_text(yaml.safe_dump(STUDY | data | changes))
        return path

    return make


@pytest.fixture(scope="module")
def alone(study):
    """Return a run of six trials, one after the other."""
    path = study()
    return api.run(path, path.parent / "run", lanes=1)


def rows(ended, table: str = "trials"):
    return read(ended.folder, table).to_pylist()


def test_a_study_runs_to_its_verdict(alone, device):
    assert alone.progress.statuses == {"ok": 6}
    assert alone.page.stat().st_size > 10_000
    assert alone.verdict["datasets"][0]["reason"]
    found = rows(alone)
    assert {row["device_name"] for row in found} == {torch.cuda.get_device_name(device)}
    assert {(row["lane"], row["shared_device"]) for row in found} == {("process", False)}
    assert all(row["test_score"] > 0.5 for row in found)


def numbers(ended, table: str) -> list[str]:
    """Return all of a table that is no time."""
    return sorted(
        str({k: v for k, v in row.items() if not k.endswith(("_sec", "_per_sec"))})
        for row in rows(ended, table)
    )


def test_two_side_by_side_on_a_card_give_the_bits_of_one(alone, study):
    path, seen = study(), []
    beside = api.run(path, path.parent / "run", lanes=2, changed=seen.append)
    assert beside.progress.statuses == {"ok": 6}
    found = rows(beside)
    assert {(row["lane"], row["shared_device"]) for row in found} == {
        ("process 1", True),
        ("process 2", True),
    }
    assert max(len(step.running) for step in seen) == 2
    assert {row["unrepeatable"] for row in (*found, *rows(alone))} == {""}
    for table in ("metrics", "epochs", "cases"):
        assert numbers(beside, table) == numbers(alone, table)
    assert len(numbers(alone, "metrics")) > 6


def test_memory_that_runs_out_is_one_failed_row_and_the_next_trial_goes_on(study):
    path = study(optimizers=["sgd"], losses=["own.py:fills", "ce"], folds=2)
    ended = api.run(path, path.parent / "run", lanes=1)
    assert ended.progress.statuses == {"failed": 2, "ok": 2}
    for row in rows(ended):
        assert (row["attempt"], row["lane"]) == (1, "process")
        if row["loss"] == "ce":
            # After 1 GiB was full, of which it takes a little; all in one process.
            assert row["status"] == "ok"
        else:
            assert row["reason"].startswith("OutOfMemoryError: CUDA out of memory")
    said = (ended.folder / "log.txt").read_text()
    assert "ended its process" not in said
    assert said.index(" fail") < said.rindex(" ok ")
