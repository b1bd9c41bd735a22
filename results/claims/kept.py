"""A run as claims read it: rows of epochs and metrics are read once, however many claims ask."""

from collections.abc import Collection
from typing import Any

from results.run_folder import Recorded

# Tables that are kept; `cases` may be large, and few claims ask for it.
_KEPT = ("epochs", "metrics")


class Kept:
    """The study, footer and data sets of a run, and its rows."""

    def __init__(self, run: Recorded) -> None:
        self.study, self.footer, self.contests = run.study, run.footer, run.contests
        self._run = run
        self._rows: dict[tuple[str, frozenset[str]], list[dict[str, Any]]] = {}

    def rows(self, table: str, trials: Collection[str]) -> list[dict[str, Any]]:
        """Return the rows of some trials in metrics, epochs or cases."""
        if table not in _KEPT:
            return self._run.rows(table, trials)
        key = table, frozenset(trials)
        if key not in self._rows:
            self._rows[key] = self._run.rows(table, trials)
        return self._rows[key]
