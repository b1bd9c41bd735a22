"""The content of a run's folder: study, contests and verdict at once, tables on request."""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar, cast

import pyarrow as pa

from results.tables.alone import read_alone
from results.tables.axes import Axis, axes_of, key_of, name_of
from results.tables.rule import read_rule
from results.tables.schema import TABLES
from results.tables.store import (
    Damage,
    DamagedError,
    Reading,
    RunError,
    find_damage,
    footer,
    incomplete,
    read,
)
from results.text import count, listed
from results.verdict.combinations import Combination, Contest, OfMissing, contests
from results.verdict.evidence import CasesByTrial, read_cases
from results.verdict.next_steps import none_added
from results.verdict.schema import OfDataset, Rule, Verdict
from results.verdict.verdict import verdict
from results.yaml_text import TextError, load_yaml, read_text

_Made = TypeVar("_Made")


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 < value <= 10**6


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < 10**6


def _are_entries(value: Any) -> bool:
    """Return whether a value is a list of names, or of mappings with a name and maybe settings."""
    return isinstance(value, list) and all(
        isinstance(entry, str)
        or (
            isinstance(entry, dict)
            and isinstance(entry.get("name"), str)
            and isinstance(entry.get("params"), dict | None)
        )
        for entry in value
    )


def _has_folds(entry: Any) -> bool:
    return isinstance(entry, dict) and _is_count(entry.get("n_folds"))


# Key of study.yaml -> whether a value of it is valid, and what it must be.
_SHAPES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "name": (lambda value: isinstance(value, str), "a text"),
    "data": (_are_entries, "a list of names, or of mappings with a name"),
    "degrade": (_are_entries, "a list of names, or of mappings with a name"),
    "seeds": (lambda value: isinstance(value, list), "a list"),
    "folds": (
        lambda value: _is_count(value) or isinstance(value, str),
        "a whole number above 0, or the name of splits",
    ),
    "repeats": (_is_count, "a whole number above 0"),
    "primary": (lambda value: isinstance(value, dict), "a mapping of tasks to metrics"),
    "alpha": (lambda value: _is_number(value) and 0 < value < 0.5, "a number between 0 and 0.5"),
    "margin": (_is_number, "a number of at least 0"),
    "until_decided": (
        lambda value: value is None or (isinstance(value, dict) and value.get("looks") in (2, 3)),
        "null, or a mapping whose looks are 2 or 3",
    ),
}


def _check_shape(study: Mapping[str, Any], axes: Iterable[Axis]) -> None:
    """Raise RunError if a study (of study.yaml, or of a footer) is not valid, as after an edit."""
    for key, (fits, wanted) in (_SHAPES | {axis.key: _SHAPES["data"] for axis in axes}).items():
        if key in study and not fits(study[key]):
            raise RunError(f"study.yaml: {key} must be {wanted}, not {study[key]!r:.80}")
    data = study.get("data", [])
    for entry in data:
        deviation = entry.get("deviation") if isinstance(entry, dict) else None
        if deviation is not None and not _is_number(deviation):
            raise RunError(
                f"study.yaml: deviation must be a number of at least 0, not {deviation!r:.80}"
            )
    if isinstance(study.get("folds"), str) and not (data and all(map(_has_folds, data))):
        raise RunError(
            f"study.yaml: folds must be a whole number above 0, not {study['folds']!r:.80}, if an "
            "entry of data has no n_folds"
        )


def made_of(path: Path, make: Callable[["Recorded"], _Made]) -> _Made:
    """Return what `make` makes of a run, without its damaged files if there are any."""
    try:
        return make(Recorded(path))
    except DamagedError:
        # All other damaged files are found at once.
        return make(Recorded(path, find_damage(path)))


def lost_sentence(lost: Collection[Mapping[str, Any]]) -> str:
    """Say that trials are not counted because some of their files are gone."""
    tables = sorted({f"{table}/" for trial in lost for table in trial["tables"]})
    return (
        f"{count(len(lost), 'finished trial')} lost files in {listed(tables)} and "
        f"cannot be counted. `medopt run` trains them again, unless you restore the files."
    )


class Recorded:
    """A run as it is on disk, finished or not, without the damaged files that `without` lists.

    Raises DamagedError if another of its files is damaged, RunError if the folder holds no run or
    one that cannot be read.
    """

    def __init__(self, path: Path, without: Damage = Damage()) -> None:  # noqa: B008  # immutable
        self.path = path
        self.without = without
        self._reading = Reading(path, without)
        self._cases: dict[tuple[str, ...], CasesByTrial | str] = {}
        study = self._study()
        rows = read(path, "trials", without=without).to_pylist()
        if not rows and not study:
            raise RunError(f"{path} holds no run: neither study.yaml nor a finished trial")
        if not rows and without.files:
            raise RunError(f"{path} has nothing left to report: {self._left_out()}")
        self.footer = footer(path, without)
        self.study = study or self.footer.get("protocol", {})
        try:
            self.axes = axes_of(self.footer)
            _check_shape(self.study, self.axes)
            made = contests(rows, self.study, self.footer.get("metrics", {}), self.axes)
        except (KeyError, TypeError, AttributeError) as error:
            raise RunError(f"the footers of trials/ are incomplete: {error.args[0]}") from error
        self.contests = self._with_lost(made)

    def _study(self) -> dict[str, Any]:
        path = self.path / "study.yaml"
        if not path.exists():
            return {}
        try:
            content = load_yaml(read_text(path))
        except TextError as error:
            raise RunError(f"{path}: {error}") from error
        if not isinstance(content, dict):
            raise RunError(f"{path} must be a mapping of keys to values")
        return content

    @cached_property
    def verdict(self) -> Verdict:
        """The verdict of the run, as `verdict.json` has it; a warning says what is left out."""
        rule = read_rule(self.path, self.footer)
        found = verdict(
            self.contests,
            self.study,
            self.columns_of,
            cast("Rule | None", rule),
            self.cases_of,
        )
        looked = self._none_added(found["datasets"])
        for data in found["datasets"]:
            lost = [trial for trial in self.incomplete if trial["dataset"] == data["dataset"]]
            first = [lost_sentence(lost)] if lost else []
            why = looked.get(data["dataset"])
            last = [f"{why[0].upper()}{why[1:]}."] if why else []
            last += [self._left_out()] if self.without.files else []
            # Notes on given splits, and on tests on another data set.
            notes = self.footer.get("data", {}).get(data["dataset"], {}).get("notes", ())
            data["warnings"] = [*first, *notes, *data["warnings"], *last]
        return found

    def _with_lost(self, made: list[Contest]) -> list[Contest]:
        """Return contests in which trials with lost or damaged files are not called unfinished."""
        missing = sum(
            c.expected - len(c.trials)
            for contest in made
            for c in contest.combinations
            if c.state != "skipped"
        )
        lost = missing and len(self.incomplete) + len(self.without.trial_ids)
        if not lost:
            return made
        # Nobody knows which trial a damaged row was of; if no more are missing, all those are lost.
        of_missing: OfMissing = "lost" if missing == lost else "perhaps lost"
        return [
            replace(
                contest,
                combinations=tuple(replace(c, of_missing=of_missing) for c in contest.combinations),
            )
            for contest in made
        ]

    def _none_added(self, datasets: Sequence[OfDataset]) -> dict[str, str]:
        """Return data set -> why no repeat is added to it, for a run with `until_decided`."""
        rule: Any = self.study.get("until_decided")
        step: Any = rule.get("step") if rule else None
        repeats: Any = self.study.get("repeats")
        if not (_is_count(step) and _is_count(repeats)):
            return {}
        if any(row["state"] == "incomplete" for data in datasets for row in data["combinations"]):
            return {}  # the look is not finished
        return none_added(datasets, repeats=repeats, step=step, looks=rule["looks"])

    @cached_property
    def alone(self) -> dict[tuple[str, str], list[dict[str, Any]]]:
        """(data set, combination) -> rows of `results.tables.alone`, by `medopt price`."""
        found: dict[tuple[str, str], list[dict[str, Any]]] = {}
        for row in read_alone(self.path):
            key = row["dataset"], name_of(key_of(row, self.axes))
            found.setdefault(key, []).append(row)
        return found

    @cached_property
    def incomplete(self) -> list[dict[str, Any]]:
        """What finished trials have lost, as `results.tables.store.incomplete` returns it."""
        return list(incomplete(self.path, self.without).values())

    @cached_property
    def lost(self) -> str | None:
        """What finished trials have lost, to missing and to damaged files; None if nothing."""
        said = [lost_sentence(self.incomplete)] if self.incomplete else []
        said += [self._left_out()] if self.without.trial_ids else []
        return " ".join(said) or None

    def _left_out(self) -> str:
        files = sorted(str(path.relative_to(self.path)) for path in self.without.files)
        named = listed([*files[:5], *([f"{len(files) - 5} more"] if len(files) > 5 else [])])
        trials = count(len(self.without.trial_ids), "trial")
        are, them = ("is", "it") if len(files) == 1 else ("are", "them")
        return (
            f"{named} {are} damaged: {trials} of the run "
            f"{'is' if len(self.without.trial_ids) == 1 else 'are'} left out. Move {them} away, "
            "and `medopt run` trains the lost trials again."
        )

    def cases_of(self, combinations: Sequence[Combination]) -> CasesByTrial | str:
        """Return the cases of all scored trials of some combinations, or why there are none.

        Kept, since those of a large run take a second to arrange and are needed twice.
        """
        key = tuple(row["trial_id"] for one in combinations for row in one.scored)
        if key not in self._cases:
            self._cases[key] = read_cases(combinations, self.columns_of)
        return self._cases[key]

    def rows(
        self, table: str, trials: Collection[str], columns: Sequence[str] | None = None
    ) -> list[dict[str, Any]]:
        """Return the rows of some trials in a table, as `columns_of` does, one mapping per row."""
        rows: list[dict[str, Any]] = self.columns_of(table, trials, columns).to_pylist()
        return rows

    def columns_of(
        self, table: str, trials: Collection[str], columns: Sequence[str] | None = None
    ) -> pa.Table:
        """Return the rows of some trials in a table; with `columns`, only those columns.

        Whole rows of cases are many and long and needed for few trials, so only these are read.
        """
        asked = tuple(columns or TABLES[table].names)
        if "trial_id" in asked and (columns or table != "cases"):
            return self._reading.rows(table, asked, trials)
        return read(self.path, table, columns=columns, trials=trials, without=self.without)
