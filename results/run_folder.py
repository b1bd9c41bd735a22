"""What a run's folder holds: study, contests and verdict at once, long tables where asked for."""

from collections.abc import Collection, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from results import text
from results.tables.axes import axes_of
from results.tables.store import RunError, footer, incomplete, read
from results.verdict.combinations import contests
from results.verdict.verdict import verdict


def lost_sentence(lost: Collection[Mapping[str, Any]]) -> str:
    """Say that trials are not counted since some of their files are gone."""
    tables = sorted({f"{table}/" for trial in lost for table in trial["tables"]})
    return (
        f"{text.count(len(lost), 'finished trial')} lost files in {text.listed(tables)} and "
        f"cannot be counted. `medopt run` trains them again; or bring the files back."
    )


class Recorded:
    """A run as it stands on disk, finished or not.

    Raises RunError where the folder holds no run, or one that cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        study = self._study()
        rows = read(path, "trials").to_pylist()
        if not rows and not study:
            raise RunError(f"{path} holds no run: neither study.yaml nor a finished trial")
        self.footer = footer(path)
        self.study = study or self.footer.get("protocol", {})
        try:
            self.axes = axes_of(self.footer)
            self.contests = contests(rows, self.study, self.footer.get("metrics", {}), self.axes)
        except KeyError as error:
            raise RunError(f"the footers of trials/ are incomplete: {error.args[0]}") from error

    def _study(self) -> dict[str, Any]:
        path = self.path / "study.yaml"
        if not path.exists():
            return {}
        try:
            content = yaml.safe_load(path.read_text(encoding="utf-8"))
        except yaml.YAMLError as error:
            raise RunError(f"study.yaml is not valid YAML: {error}") from error
        if not isinstance(content, dict):
            raise RunError("study.yaml must be a mapping of keys to values")
        return content

    @cached_property
    def verdict(self) -> dict[str, Any]:
        """The verdict of the run, as `verdict.json` has it."""
        found = verdict(self.contests, self.study)
        for one in found["datasets"]:
            lost = [trial for trial in self.incomplete if trial["dataset"] == one["dataset"]]
            if lost:
                one["warnings"].insert(0, lost_sentence(lost))
        return found

    @cached_property
    def incomplete(self) -> list[dict[str, Any]]:
        """What is lost of finished trials, as `results.tables.store.incomplete` has it."""
        return list(incomplete(self.path).values())

    def rows(self, table: str, trials: Collection[str]) -> list[dict[str, Any]]:
        """Return the rows of some trials in metrics, epochs or cases."""
        found: list[dict[str, Any]] = read(self.path, table, trials=trials).to_pylist()
        return found
