"""Open files: the limit is raised as far as it may be, and a store keeps a quarter of it."""

import resource
import subprocess
import sys

import pytest

from loaders import open_files
from loaders.open_files import FEWEST, WANTED, allow_many_files, files_of_a_store

UNLIMITED = resource.RLIM_INFINITY


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ((1024, 524288), (WANTED, 524288)),
        ((256, UNLIMITED), (WANTED, UNLIMITED)),  # macOS
        ((1024, 4096), (4096, 4096)),
        ((WANTED, 524288), None),
        ((20000, 20000), None),
        ((UNLIMITED, UNLIMITED), None),
    ],
)
def test_the_limit_is_raised_as_far_as_it_may_be(monkeypatch, before, after):
    asked = []
    monkeypatch.setattr(resource, "getrlimit", lambda _what: before)
    monkeypatch.setattr(resource, "setrlimit", lambda _what, limits: asked.append(limits))
    allow_many_files()
    assert asked == ([] if after is None else [after])


@pytest.mark.parametrize("error", [OSError, ValueError])
def test_a_system_that_allows_less_than_it_says_is_left_as_it_is(monkeypatch, error):
    def refuse(_what, _limits):
        raise error

    monkeypatch.setattr(resource, "getrlimit", lambda _what: (256, UNLIMITED))
    monkeypatch.setattr(resource, "setrlimit", refuse)
    allow_many_files()
    assert files_of_a_store() == FEWEST


@pytest.mark.parametrize(
    ("soft", "kept"),
    [(100, FEWEST), (1024, 256), (WANTED, WANTED // 4), (UNLIMITED, WANTED // 4)],
)
def test_a_store_keeps_a_quarter_of_what_may_be_open(monkeypatch, soft, kept):
    monkeypatch.setattr(resource, "getrlimit", lambda _what: (soft, UNLIMITED))
    assert files_of_a_store() == kept


def test_without_such_limits_few_are_kept(monkeypatch):
    monkeypatch.setattr(open_files.os, "name", "nt")
    allow_many_files()
    assert files_of_a_store() == FEWEST


def test_a_process_that_trains_has_asked_for_them():
    code = (
        "import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (200, 1000));"
        "from bench.core.startup import begin; begin(1);"
        "print(*resource.getrlimit(resource.RLIMIT_NOFILE))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["1000", "1000"]
