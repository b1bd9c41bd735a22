"""A run as claims read it: the rows of epochs and metrics are read once for all claims."""

from collections.abc import Collection, Sequence
from typing import Any

import pyarrow as pa

from results.run_folder import Recorded
from results.statistics.evidence import Evidence
from results.verdict.combinations import Contest
from results.verdict.evidence import Measure, known

# The columns of `epochs` that claims use.
_OF_EPOCHS = (
    *("trial_id", "epoch", "val_score", "sample_gradients"),
    *("train_loss", "step_norm", "step_loss_sd_diff"),
)


class Kept:
    """The study, footer and data sets of a run, and its rows."""

    def __init__(self, run: Recorded) -> None:
        self.study, self.footer, self.contests = run.study, run.footer, run.contests
        self._run = run
        self._epochs: dict[frozenset[str], dict[str, list[dict[str, Any]]]] = {}
        self._metrics: dict[frozenset[str], list[dict[str, Any]]] = {}
        self._evidence: dict[str, tuple[list[str], Evidence]] = {}

    def evidence(self, contest: Contest) -> tuple[list[str], Evidence]:
        """Return the names of the judged, and the evidence on their test scores."""
        if contest.dataset not in self._evidence:
            judged = contest.judged
            found = known(
                contest,
                judged,
                Measure.of(contest.metric, contest.described[contest.metric]),
                self._run.cases_of(judged),
                lambda row: float(row["test_score"]),
            )
            self._evidence[contest.dataset] = [c.name for c in judged], found.evidence
        return self._evidence[contest.dataset]

    def epochs(self, trials: Collection[str]) -> dict[str, list[dict[str, Any]]]:
        """Return trial id -> its rows of `epochs`, in order."""
        key = frozenset(trials)
        if key not in self._epochs:
            found: dict[str, list[dict[str, Any]]] = {}
            for row in self._run.rows("epochs", trials, _OF_EPOCHS):
                found.setdefault(row["trial_id"], []).append(row)
            for rows in found.values():
                rows.sort(key=lambda row: row["epoch"])
            self._epochs[key] = found
        return self._epochs[key]

    def metrics(self, trials: Collection[str]) -> list[dict[str, Any]]:
        """Return the rows of some trials in `metrics`."""
        key = frozenset(trials)
        if key not in self._metrics:
            self._metrics[key] = self._run.rows("metrics", trials)
        return self._metrics[key]

    def cases(self, trials: Collection[str], columns: Sequence[str]) -> pa.Table:
        """Return some columns of `cases` for some trials; not kept, as there may be many rows."""
        return self._run.columns_of("cases", trials, columns)
