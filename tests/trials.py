"""Trials that tests make: small changes to a trial, its choices among them, and its loader."""

from dataclasses import replace
from typing import Any

import pytest

from bench.study.choice import Choice
from bench.study.trial import Trial
from loaders.batches.table import LOADERS
from results.tables.axes import AXES, COLUMNS

PLAIN = {axis.column: Choice(name=axis.plain) for axis in AXES if axis.plain}


def changed(trial: Trial, **changes: Any) -> Trial:
    """Return a trial with other fields; the name of an axis' column replaces the choice on it."""
    choices = {name: changes.pop(name) for name in COLUMNS if name in changes}
    return replace(trial, choices={**trial.choices, **choices}, **changes)


def skip_without(loader: str) -> None:
    """Skip the test where a loader's library is not installed."""
    if not LOADERS[loader].available():
        pytest.skip(f"{loader} is not installed")
