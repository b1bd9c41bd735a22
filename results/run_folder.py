"""The content of a run's folder: study, contests and verdict at once, tables on request."""

from collections.abc import Collection
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from results.tables.axes import axes_of
from results.tables.store import RunError, footer, read
from results.verdict.combinations import contests
from results.verdict.schema import Verdict
from results.verdict.verdict import verdict


class Recorded:
    """A run as it is on disk, finished or not.

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
    def verdict(self) -> Verdict:
        """The verdict of the run, as `verdict.json` has it."""
        return verdict(self.contests, self.study, self.rows)

    def rows(self, table: str, trials: Collection[str]) -> list[dict[str, Any]]:
        """Return the rows of some trials in metrics, epochs or cases."""
        found: list[dict[str, Any]] = read(self.path, table, trials=trials).to_pylist()
        return found
