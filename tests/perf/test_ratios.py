"""What is said of ratios that `make bench` saved: none, better, worse, new, kept."""

import json
from pathlib import Path

import pytest

from tests.perf import ratios


@pytest.fixture
def saved(tmp_path):
    """Return a writer of saved runs, as pytest-benchmark lays them down."""

    def write(day: int, **found: float) -> Path:
        folder = tmp_path / "saved" / "Linux-CPython-3.11-64bit"
        folder.mkdir(parents=True, exist_ok=True)
        tests = [{"name": "test_read", "extra_info": {"ratios": found}}]
        tests.append({"name": "test_without", "extra_info": {}})
        for side, median in (("ours", 2.0), ("other", 8.0), ("other", 4.0)):
            extra = {"side": side}
            stats = {"median": median}
            tests.append({"name": "t", "group": "crop", "extra_info": extra, "stats": stats})
        text = {
            "datetime": f"2026-11-{day:02}T10:00:00+00:00",
            "commit_info": {"id": f"{day:040x}"},
            "benchmarks": tests,
        }
        (folder / f"{day:04}_x.json").write_text(json.dumps(text))
        return tmp_path / "saved"

    return write


@pytest.fixture
def kept(tmp_path):
    path = tmp_path / "kept.json"
    path.write_text(json.dumps({"test_read: copy": 2.0, "test_read: gone": 1.0}))
    return path


@pytest.mark.parametrize(("now", "status"), [(1.0, 0), (2.29, 0), (2.31, 1)])
def test_the_last_run_alone_is_held_to_what_is_kept(saved, kept, capsys, now, status):
    saved(3, copy=9.0)
    folder = saved(20, copy=now, peer=5.0)
    assert ratios.main([], folder, kept) == status
    told = capsys.readouterr()
    assert ("slower: test_read: copy: 2.31, kept is 2" in told.err) == bool(status)
    assert "new           test_read: peer" in told.out
    page = (folder / "trends.html").read_text()
    assert "0.5  new           crop: fastest peer" in told.out
    assert page.count("<svg") == 3
    assert "test_read: copy" in page


def test_what_was_found_is_kept_beside_what_was_not_measured(saved, kept):
    folder = saved(1, copy=4.0, peer=5.0)
    assert ratios.main(["--keep"], folder, kept) == 0
    assert json.loads(kept.read_text()) == {
        "crop: fastest peer": 0.5,
        "test_read: copy": 4.0,
        "test_read: gone": 1.0,
        "test_read: peer": 5.0,
    }


def test_without_a_run_it_says_what_saves_one(tmp_path, kept, capsys):
    assert ratios.main([], tmp_path, kept) == 2
    assert "make bench" in capsys.readouterr().err


def test_what_the_project_keeps_is_ratios():
    found = json.loads(ratios.KEPT.read_text())
    assert all(isinstance(value, float) and value > 0 for value in found.values())
