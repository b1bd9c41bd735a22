"""Trials that tests make: small changes to a trial, its choices among them."""

from dataclasses import replace
from typing import Any

from bench.study.choice import Choice
from bench.study.trial import Trial
from results.tables.axes import AXES, COLUMNS

PLAIN = {axis.column: Choice(name=axis.plain) for axis in AXES if axis.plain}


def changed(trial: Trial, **changes: Any) -> Trial:
    """Return a trial with other fields; the name of an axis' column replaces the choice on it."""
    choices = {name: changes.pop(name) for name in COLUMNS if name in changes}
    return replace(trial, choices={**trial.choices, **choices}, **changes)
