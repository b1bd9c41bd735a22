"""What a comparison claims, and about what: the procedure, the models here, another metric.

There are three questions. Which *procedure* is best: what would training anew on as many other
patients give? That is the headline. Which of the *models trained here* are best on new patients?
This is decided more often. Which level of an axis is best on average over the other axes? See
`results.verdict.margins`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from results import text as words
from results.statistics.procedure import Comparison, compare, compare_models
from results.tables.tasks import TASKS
from results.verdict.combinations import Combination, Contest, Row
from results.verdict.doubts import RowsOf
from results.verdict.evidence import CasesByTrial, Known, Measure, known
from results.verdict.schema import Claim, Errors, Lead, Second, State


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A comparison of named things by one metric, with the margin of practical equivalence."""

    names: Sequence[str]
    found: Comparison
    metric: str
    margin: float

    @property
    def state(self) -> State:
        """Return better, tie or undecided."""
        if self.found.winner is not None:
            return "better"
        inside = self.found.low[self.found.group] >= -self.margin
        return "tie" if inside.size > 1 and inside.all() else "undecided"

    @property
    def best(self) -> str:
        """Return the name of the one with the best mean."""
        return self.names[self.found.best]

    @property
    def group(self) -> list[str]:
        """Return the names of those that may be the best."""
        return [n for n, may in zip(self.names, self.found.group, strict=True) if may]

    @property
    def reach(self) -> float:
        """Return how far, at most, a member of the group may be behind the best."""
        return float(-self.found.low[self.found.group].min())

    @property
    def lead(self) -> Lead:
        """Return how far the best is ahead of the next."""
        f = self.found
        estimate = float(f.estimate[f.best])
        return {
            "best": self.best,
            "over": self.names[f.runner_up],
            "estimate": estimate,
            "low": max(estimate - f.lead_reach, -f.span),
            "high": min(estimate + f.lead_reach, f.span),
            "degrees_of_freedom": float(f.df[f.best, f.runner_up]),
        }

    def claim(self, of: str, sentence: str) -> Claim:
        """Return the claim with its sentence."""
        return {
            "of": of,
            "state": self.state,
            "best": self.best,
            "group": self.group,
            "lead": self.lead,
            "sentence": sentence,
        }

    @property
    def others(self) -> str:
        """Return what the best is compared with: the other's name, or `each of the other 5`."""
        number = len(self.names) - 1
        return self.lead["over"] if number == 1 else f"each of the other {number}"

    @property
    def ahead(self) -> str:
        """Return how far ahead the best is, as words that follow `it is `."""
        lead = self.lead
        of = "" if len(self.names) == 2 else f" of the next, {lead['over']},"
        said = (
            f"ahead{of} by {words.score(lead['estimate'])} "
            f"{words.metric(self.metric)} "
            f"({words.interval(lead['low'], lead['high'], self.found.alpha)})"
        )
        if lead["high"] > self.margin:
            return said
        return f"{said}, a real difference, but within the margin of {words.score(self.margin)}"

    def alike(self, what: str) -> str:
        """Return which may be the best, and how far behind the best they may be."""
        number, every = len(self.group), len(self.names)
        who = f"{number} of {every} {what}"
        if number == every:
            who = f"either of the two {what}" if every == 2 else f"any of the {every} {what}"
        sure, metric = words.percent(1 - self.found.alpha), words.metric(self.metric)
        none = "neither" if number == 2 else "none"
        if self.state == "tie":
            return (
                f"{who} may be the best; with {sure} confidence {none} of them is more than the "
                f"margin of {words.score(self.margin)} {metric} behind the best, so for the score "
                "it does not matter which is chosen"
            )
        return (
            f"{who} may be the best; with {sure} confidence {none} of them is more than "
            f"{words.score(self.reach)} {metric} behind the best (differences up to the margin of "
            f"{words.score(self.margin)} do not matter)"
        )


def of_procedure(asked: Asked) -> Claim:
    """Return the headline: what training anew would give."""
    said = asked.alike("combinations")
    if asked.state == "better":
        level = words.percent(asked.found.alpha)
        said = (
            f"{asked.best} scores better than {asked.others} (level {level}); it is {asked.ahead}"
        )
    return asked.claim("procedure", f"If trained anew on as many similar patients, {said}.")


def of_models(asked: Asked) -> Claim:
    """Return the claim about the models that were trained here, on new patients."""
    said = asked.alike("combinations")
    if asked.state == "better":
        level = words.percent(asked.found.alpha)
        said = (
            f"{asked.best} score better than those of {asked.others} (level {level}); they are "
            f"{asked.ahead}"
        )
    return asked.claim(
        "models",
        f"On new patients, among the models trained here, those of {said}. Other training sets may "
        "give another answer.",
    )


def models_unknown(reason: str) -> Claim:
    """Return that nothing is claimed about the models trained here, and why."""
    return {
        "of": "models",
        "state": "none",
        "best": None,
        "group": [],
        "lead": None,
        "sentence": "It is not known how the models trained here would score on new patients: "
        f"{reason}.",
    }


# Share of false winners, at a stated 5 %, in simulated studies of equal combinations judged by
# cases, in the worst of the settings tried (LOG.md): two combinations with one seed and one repeat,
# where a single difference tells what training adds; and leaders less steady than the field.
_TWO_AT_ONCE, _UNSTEADY = 0.09, 0.08


def level_that_holds(evidence: Known, asked: Asked) -> list[str]:
    """Return a sentence if the claim of a winner may be false more often than its level says.

    With one fold the claim is about the models trained there, and its level holds.
    """
    found = asked.found
    if found.winner is None or evidence.evidence.influence is None or evidence.evidence.folds < 2:
        return []
    lone = evidence.evidence.seeds * evidence.evidence.repeats == 1
    if len(asked.names) == 2 and lone:
        most, why = _TWO_AT_ONCE, "two combinations with one seed and one repeat"
        cure = " A second seed would remove this doubt."
    elif not found.steady[[found.best, found.runner_up]].all():
        most, why = _UNSTEADY, "the best or the next is less steady than the others"
        cure = ""
    else:
        return []
    if most <= found.alpha:
        return []
    said = (
        f"The requested level of this claim is {words.percent(found.alpha)}, but in simulated "
        f"studies of equal combinations such a claim ({why}) was false in up to "
        f"{words.percent(most)} of them.{cure}"
    )
    return [said]


def errors(evidence: Known, found: Comparison) -> Errors:
    """Return how certain a comparison is, and why."""
    shares = found.shares
    return {
        "by": "folds" if evidence.evidence.influence is None else "cases",
        "reason": evidence.folds_alone,
        "shares": None
        if shares is None
        else {"patients": shares.patients, "training": shares.training, "seed": shares.seed},
        "floor": found.floor,
        "floor_is_about": found.floor_is_about,
    }


# ---------------------------------------------------------------- another metric


def by_other_metrics(
    contest: Contest,
    asked: Asked,
    cases: CasesByTrial | str,
    rows_of: RowsOf,
) -> list[Second]:
    """Return what the other metrics of the task say, as far as the footers describe them."""
    others = [
        name
        for name in (TASKS[contest.task].seconds if contest.task in TASKS else ())
        if name != contest.metric and name in contest.described
    ]
    if not others:
        return []
    judged = contest.judged
    scores = _headlines(judged, others, rows_of)
    found = []
    for name in others:
        of_metric = scores[name]
        trials = [row["trial_id"] for combination in judged for row in combination.scored]
        if lacking := sum(trial not in of_metric for trial in trials):
            unit = contest.described[name].get("unit")
            found.append(_unknown(name, _lacks(lacking, len(trials), unit)))
        else:
            found.append(_second(contest, judged, asked, name, of_metric, cases))
    return found


def _headlines(
    judged: Sequence[Combination], names: Sequence[str], rows_of: RowsOf
) -> dict[str, dict[str, float]]:
    """Return metric -> trial id -> the metric's headline value on the test fold."""
    found: dict[str, dict[str, float]] = {name: {} for name in names}
    columns = ("trial_id", "split", "metric", "degradation", "headline", "value")
    trials = [row["trial_id"] for combination in judged for row in combination.scored]
    rows = rows_of("metrics", trials, columns)
    plain = pc.fill_null(pc.equal(rows["degradation"], ""), True)
    wanted = rows.filter(pc.and_(pc.and_(pc.equal(rows["split"], "test"), rows["headline"]), plain))
    for row in wanted.filter(pc.is_in(wanted["metric"], pa.array(names))).to_pylist():
        if row["value"] is not None:
            found[row["metric"]][row["trial_id"]] = row["value"]
    return found


def _second(
    contest: Contest,
    judged: Sequence[Combination],
    first: Asked,
    name: str,
    scores: dict[str, float],
    cases: CasesByTrial | str,
) -> Second:
    def score_of(row: Row) -> float:
        return scores[row["trial_id"]]

    measure = Measure.of(name, contest.described[name])
    judged_by = known(contest, judged, measure, cases, score_of)
    evidence = judged_by.evidence
    # The margin is in units of the primary metric, so another one only says better or not.
    compared = compare if evidence.folds > 1 else compare_models
    if evidence.folds < 2 and evidence.influence is None:
        why = f" ({judged_by.folds_alone})" if judged_by.folds_alone else ""
        return _unknown(name, f"one fold does not show how uncertain its scores are{why}")
    asked = Asked(
        names=first.names,
        found=compared(evidence, alpha=first.found.alpha),
        metric=name,
        margin=-np.inf,
    )
    agrees, sentence = _agreement(first, asked)
    return {
        "metric": name,
        "state": asked.state,
        "best": asked.best,
        "group": asked.group,
        "agrees": agrees,
        "sentence": sentence,
    }


def _agreement(first: Asked, second: Asked) -> tuple[bool, str]:
    by = f"By {words.metric(second.metric)}"
    mine, other = first.found.winner, second.found.winner
    if mine is not None and other is not None:
        if mine == other:
            return True, f"{by} too, {second.best} is better than each of the others."
        return False, f"{by} another one wins: {second.best} is better than each of the others."
    if mine is not None:
        among = first.best in second.group
        return among, (
            f"{by} there is no clear winner: {len(second.group)} of {len(second.names)} may be the "
            f"best, and {first.best} is {'' if among else 'not '}among them."
        )
    if other is not None:
        among = second.best in first.group
        return among, (
            f"{by} {second.best} is better than each of the others; by "
            f"{words.metric(first.metric)} it is {'' if among else 'not '}one of those that may be "
            "the best."
        )
    shared = [name for name in second.group if name in first.group]
    number, every = len(second.group), len(second.names)
    who = f"all {every}" if number == every else f"{number} of {every}"
    also = f"{len(shared)} of which may be the best"
    if len(shared) == number:
        also = "all of them"
    return bool(shared), (
        f"{by} there is no clear winner either: {who} may be the best, {also} by "
        f"{words.metric(first.metric)} too."
    )


def _lacks(lacking: int, trials: int, unit: str | None) -> str:
    """Return how many trials lack a metric, and why if it is a distance that none has."""
    if lacking < trials:
        return f"{lacking} of {trials} trials have no value"
    # No distance is recorded without a spacing, nor where all masks are empty.
    needs = "; a distance needs the spacing of the images in mm" if unit == "mm" else ""
    return f"no trial has a value{needs}"


def _unknown(name: str, why: str) -> Second:
    return {
        "metric": name,
        "state": "none",
        "best": None,
        "group": [],
        "agrees": None,
        "sentence": f"By {words.metric(name)} nothing can be said: {why}.",
    }
