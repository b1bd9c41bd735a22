"""Broken input of every kind through the real preparing: refused in words, and nothing worse.

The corpus is made and read by broken_corpus.py, in one process of its own with 2 GiB of memory.
"""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from rich.console import Console

from bench import cli

SCRIPT = Path(__file__).with_name("broken_corpus.py")
# As in broken_corpus.py.
SECRET, MARK = "Mustermann", "MRN4711_"
# What a sentence that is stored or printed never holds: addresses, classes of Python, line breaks.
UNREADABLE = re.compile(r"0x[0-9a-f]{6}|<class|<[a-z]+\.[A-Z]|Traceback|\n")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of the corpus, prepared."""
    folder = tmp_path_factory.mktemp("broken")
    done = subprocess.run(
        [sys.executable, str(SCRIPT), str(folder)],
        cwd=folder,
        env={**os.environ, "ARROW_DEFAULT_MEMORY_POOL": "system"},
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    # A crash, a hang (the script ends itself), memory beyond the limit: each ends the process.
    assert done.returncode == 0, done.stderr[-3000:]
    (folder / "outcomes.jsonl").write_text(done.stdout)
    return folder


@pytest.fixture(scope="module")
def outcomes(corpus: Path) -> list[dict[str, Any]]:
    """Return what became of each source, a row each."""
    return [json.loads(line) for line in (corpus / "outcomes.jsonl").read_text().splitlines()]


def reasons(outcome: dict[str, Any]) -> list[str]:
    """Return every sentence about a source."""
    rejected = [reason for said in outcome["rejected"].values() for reason in said]
    return rejected + ([outcome["refused"]] if outcome["refused"] else [])


def test_the_corpus_is_large_and_its_reading_is_not(outcomes: list[dict[str, Any]]) -> None:
    assert {outcome["kind"] for outcome in outcomes} >= {"msd", "brats", "images", "cine", "lidc"}
    broken = sum(outcome["inputs"] for outcome in outcomes if not outcome["any_good"])
    assert broken >= 250
    assert sum(outcome["inputs"] for outcome in outcomes) >= 700
    assert max(outcome["peak_mib"] for outcome in outcomes) < 2048


def test_what_is_broken_is_refused_and_what_is_good_is_kept(
    outcomes: list[dict[str, Any]],
) -> None:
    for outcome in outcomes:
        name, said = outcome["name"], reasons(outcome)
        if outcome["refused"]:
            assert outcome["cases"] == 0, name
        if outcome["any_good"]:
            assert outcome["cases"] >= outcome["good"], name
            continue
        assert bool(outcome["refused"]) == outcome["source_refused"], (name, said)
        if not outcome["source_refused"]:
            assert outcome["cases"] == outcome["good"], (name, said)
            assert len(said) >= outcome["inputs"], (name, said)
        if outcome["says"]:
            assert all(any(part in one for part in outcome["says"]) for one in said), (name, said)


def test_every_refusal_is_a_sentence(outcomes: list[dict[str, Any]]) -> None:
    for outcome in outcomes:
        for sentence in reasons(outcome):
            assert 10 <= len(sentence) <= 300, sentence
            assert len(sentence.split()) >= 3, sentence
            assert not UNREADABLE.search(sentence), sentence
            assert SECRET not in sentence


def test_no_name_is_stored(corpus: Path, outcomes: list[dict[str, Any]]) -> None:
    stores = [Path(outcome["store"]) for outcome in outcomes if outcome["cases"]]
    assert len(stores) >= 10
    for store in stores:
        tables = [pq.read_table(store / f"{name}.parquet") for name in ("cases", "rejected")]
        written = (store / "store.json").read_text()
        written += "".join(str(table.to_pylist()) for table in tables)
        written += " ".join(path.name for path in store.rglob("*"))
        for name in (SECRET, MARK, str(corpus)):
            assert name not in written, (store.name, name)
        stored = pq.read_table(store / "rejected.parquet")["reason"].to_pylist()
        (outcome,) = (one for one in outcomes if one["store"] == str(store))
        assert sorted(stored) == sorted(reasons(outcome))


def test_nothing_is_run_and_no_refused_store_is_left(
    corpus: Path, outcomes: list[dict[str, Any]]
) -> None:
    assert list(corpus.rglob("canary")) == []
    for outcome in outcomes:
        if outcome["refused"]:
            assert not Path(outcome["store"]).exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["medmnist", "cut50/breastmnist.npz"], "breastmnist.npz is not a complete .npz file"),
        (["medmnist", "pickled_images"], "train_images holds object, not plain numbers"),
        (["msd", "none"], "there is no folder"),
        (["msd", "cut50"], "has neither a folder imagesTr nor files"),
    ],
)
def test_the_command_line_ends_with_2_and_a_sentence(
    corpus: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    said: str,
) -> None:
    kind, place = words
    source = corpus / "corpus" / "broken_archives" / place
    assert run(monkeypatch, "prepare", kind, source, "--out", tmp_path / "s") == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert said in " ".join(printed.err.split())
    assert "Traceback" not in printed.err
    assert not (tmp_path / "s").exists()


def test_strict_stops_at_the_first_on_the_command_line(
    corpus: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    source = corpus / "corpus" / "cut_volumes"
    words = ["prepare", "msd", source, "--out", tmp_path / "s", "--workers", 1]
    assert run(monkeypatch, *words, "--strict") == 2
    assert "--strict stops here" in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "s").exists()
    assert run(monkeypatch, *words) == 0
    assert "3 cases, 30 rejected" in " ".join(capsys.readouterr().out.split())


def run(monkeypatch: pytest.MonkeyPatch, *words: object) -> int | str | None:
    """Run a command line in this process; return its exit status."""
    monkeypatch.setenv("MEDOPT_KEY", "test")
    monkeypatch.setattr(cli, "out", Console(width=400, highlight=False))
    monkeypatch.setattr(cli, "err", Console(width=400, highlight=False, stderr=True))
    monkeypatch.setattr(sys, "argv", ["medopt", *map(str, words)])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    return ended.value.code
