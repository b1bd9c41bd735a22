"""A run as claims read it: rows of epochs and metrics are read once, however many claims ask."""

from collections.abc import Collection, Sequence
from typing import Any

from results.run_folder import Recorded
from results.statistics.evidence import Evidence
from results.verdict.combinations import Contest
from results.verdict.evidence import Measure, known, read_cases

# Tables that are kept; `cases` may be large, and few claims ask for it.
_KEPT = ("epochs", "metrics")


class Kept:
    """The study, footer and data sets of a run, and its rows."""

    def __init__(self, run: Recorded) -> None:
        self.study, self.footer, self.contests = run.study, run.footer, run.contests
        self._run = run
        self._rows: dict[tuple[str, frozenset[str]], list[dict[str, Any]]] = {}
        self._evidence: dict[str, tuple[list[str], Evidence]] = {}

    def evidence(self, contest: Contest) -> tuple[list[str], Evidence]:
        """Return the names of the judged, and what folds and patients tell of their test scores."""
        if contest.dataset not in self._evidence:
            judged = contest.judged
            found = known(
                contest,
                judged,
                Measure.of(contest.metric, contest.described[contest.metric]),
                read_cases(judged, self._run.rows),
                lambda row: float(row["test_score"]),
            )
            self._evidence[contest.dataset] = [c.name for c in judged], found.evidence
        return self._evidence[contest.dataset]

    def rows(
        self, table: str, trials: Collection[str], columns: Sequence[str] | None = None
    ) -> list[dict[str, Any]]:
        """Return the rows of some trials in metrics, epochs or cases."""
        if table not in _KEPT:
            return self._run.rows(table, trials, columns)
        key = table, frozenset(trials)
        if key not in self._rows:
            self._rows[key] = self._run.rows(table, trials)
        return self._rows[key]
