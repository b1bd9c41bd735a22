"""What to do next: where the uncertainty comes from, what would decide, and at what price.

The variance V of the lead has three parts (`results.statistics.procedure`): patients, for whom no
further training is a substitute; training sets; seeds. With n', k', R', S' in place of n patients,
k folds, R repeats and S seeds, and f = 1/(kR) + n_test/n_train,

    V' = n/n' (patients + (k' f' / (k f)) (training + seeds S/S')),

since what training adds to a fold is proportional to what patients add to it, which is proportional
to k. More patients also make training vary less, so they may decide a lead even if the patients
tested contribute little to its uncertainty. A lead is decided if the half-width of its interval is
at most the present lead, or the margin.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from results import text as words
from results.statistics import critical
from results.statistics.predict import Plan, Prediction, predict
from results.statistics.spread import mean_variance_factor
from results.verdict.claims import Asked
from results.verdict.combinations import Combination, Contest, cell_of, fold_of
from results.verdict.doubts import RowsOf
from results.verdict.evidence import Known, by_primary, read_cases
from results.verdict.schema import Next, OfDataset, Option

# Nobody would train more seeds, repeats or folds than this. Assumption.
_MOST = 10
# Nobody would gather more than this multiple of the present patients, so no number is named beyond
# it. Assumption.
_MOST_TIMES = 100
_Trained = Literal["repeats", "seeds", "folds"]

# A lead below this is rounding, and no number of patients decides it (as in the procedure).
_ROUNDING = 1e-12


@dataclass(frozen=True, kw_only=True)
class _Design:
    """What a lead was measured with, and the parts of its variance."""

    folds: int
    repeats: int
    seeds: int
    ratio: float
    patients_part: float
    training: float
    seed: float

    def variance(self, *, folds: int, repeats: int, seeds: int) -> float:
        """Return the expected variance with other numbers of each, and as many patients."""
        now = self.folds * mean_variance_factor(self.folds * self.repeats, self.ratio)
        ratio = self.ratio * (self.folds - 1) / (folds - 1)
        then = folds * mean_variance_factor(folds * repeats, ratio)
        of_seeds = self.seed * self.seeds / seeds
        return self.patients_part + then / now * (self.training + of_seeds)


def one_fold() -> Next:
    """Return what to do after a single fold."""
    return {
        "sentence": "One fold cannot show what another training set would change. With five folds "
        "the claim is about the procedure, not about the models trained here.",
        "options": [],
    }


def what_next(contest: Contest, judged_by: Known, asked: Asked) -> Next:
    """Return where the uncertainty of the lead comes from, and what would decide it."""
    f, evidence = asked.found, judged_by.evidence
    variance = float(f.variance[f.best, f.runner_up])
    comes_from = _comes_from(asked, judged_by)
    if asked.state != "undecided" or variance <= 0:
        return {"sentence": comes_from, "options": []}
    shares = f.shares
    design = _Design(
        folds=evidence.folds,
        repeats=evidence.repeats,
        seeds=evidence.seeds,
        ratio=evidence.test_train_ratio,
        patients_part=shares.patients * variance if shares else 0.0,
        training=shares.training * variance if shares else variance,
        seed=(shares.seed or 0.0) * variance if shares else 0.0,
    )
    t = float(critical.two_sided_t(f.df[f.best, f.runner_up], f.alpha))
    lead = asked.lead["estimate"]
    wanted = max(lead, asked.margin)

    def half_width(variance: float) -> float:
        return t * float(np.sqrt(variance))

    ways: dict[_Trained, Sequence[int]] = {
        "repeats": range(design.repeats + 1, _MOST + 1),
        # With one seed, the effect of another is not known.
        "seeds": range(design.seeds + 1, _MOST + 1) if design.seeds > 1 else (),
        "folds": (_MOST,) if design.folds < _MOST else (),
    }
    options = [
        _option(contest, asked, design, what, numbers, wanted, half_width)
        for what, numbers in ways.items()
        if numbers
    ]
    patients = evidence.patients or _groups(contest)
    times = (half_width(variance) / wanted) ** 2 if wanted > _ROUNDING else 0.0
    advice = _advice(design, options)
    if patients:
        more, said = _more_patients(patients, times, wanted)
        options += more
        advice += said
    if design.seeds == 1:
        advice.append("a second seed would show how much of the rest is due to the seed")
    takes = f"A decision needs an interval of at most ±{words.score(wanted)}, the larger of lead "
    takes += f"and margin: {'; '.join(advice)}."
    return {"sentence": f"{comes_from} {takes}", "options": options}


def _more_patients(patients: int, times: float, wanted: float) -> tuple[list[Option], list[str]]:
    """Return the effect of `times` the present patients, as an option and in words.

    Both are empty if fewer patients would do; there is no option if nobody has so many.
    """
    needed = int(np.ceil(patients * times))
    # The interval is narrow enough already, but for chance: fewer patients would be no advice.
    if needed <= patients:
        return [], []
    if times > _MOST_TIMES:
        beyond = f"it takes more than {_MOST_TIMES} times the present {patients}"
        return [], [f"no practical number of patients would be enough ({beyond})"]
    option: Option = {
        "what": "patients",
        "number": needed,
        "half_width": wanted,
        "decides": True,
        "seconds": None,
    }
    why = "since with more patients both training and testing vary less"
    return [option], [f"about {_about(needed)} patients (now {patients}) would be enough, {why}"]


def _about(number: int) -> str:
    """Return a number in words; above 1000, with the two digits that an estimate has."""
    if number > 1000:
        number = round(number, 2 - len(str(number)))
    return f"{number:,}"


def _option(
    contest: Contest,
    asked: Asked,
    design: _Design,
    what: _Trained,
    numbers: Sequence[int],
    wanted: float,
    half_width: Callable[[float], float],
) -> Option:
    """Return the smallest of `numbers` that decides, or the last if none does."""
    now = {"folds": design.folds, "repeats": design.repeats, "seeds": design.seeds}
    for number in numbers:
        then = {**now, what: number}
        width = half_width(design.variance(**then))
        if width <= wanted:
            break
    # Another number of folds shares no trial with this one: all are trained anew.
    before = 0 if what == "folds" else int(np.prod(list(now.values())))
    trials = (int(np.prod(list(then.values()))) - before) * len(asked.names)
    return {
        "what": what,
        "number": number,
        "half_width": width,
        "decides": width <= wanted,
        "seconds": _seconds(contest, trials),
    }


def _seconds(contest: Contest, trials: int) -> float | None:
    """Return the seconds that a number of trials would take, None if no time was measured."""
    known = [wall for c in contest.judged if (wall := c.mean("wall_sec")) is not None]
    return float(np.mean(known)) * trials if known else None


def _groups(contest: Contest) -> int | None:
    """Return how many patients a contest has, by the counts of a trial; None if unknown."""
    for row in contest.rows:
        parts = [row[f"n_{part}_groups"] for part in ("train", "val", "test")]
        if all(parts):
            return int(sum(parts))
    return None


# ---------------------------------------------------------------- words


def _comes_from(asked: Asked, judged_by: Known) -> str:
    f = asked.found
    if f.shares is None or f.floor is None:
        why = f" ({judged_by.folds_alone})" if judged_by.folds_alone else ""
        return (
            "How much of the uncertainty comes from the patients tested is not known: errors are "
            f"estimated from the scatter of folds alone{why}."
        )
    parts = [(f.shares.patients, "the patients tested"), (f.shares.training, "training")]
    if f.shares.seed is not None:
        parts[1] = f.shares.training, "the training sets"
        parts.append((f.shares.seed, "the seed"))
    parts = [(round(share, 2), what) for share, what in parts]
    said = [f"{words.percent(share)} from {what}" for share, what in parts if share]
    said[0] = said[0].replace(" from ", " of the uncertainty of the best one's lead comes from ")
    text = words.listed(said)
    # A share is an estimate: one that rounds to nothing is too small to be seen, not absent.
    unseen = [what for share, what in parts if not share]
    if unseen:
        text += f"; what {words.listed(unseen)} add is too little to be seen beside it"
    floor = words.score(f.floor)
    if float(floor):
        about = "about " if f.floor_is_about else ""
        text += (
            f"; with these patients no lead below {about}{floor} can be shown, however many seeds "
            "are run"
        )
    return f"{text}."


def _advice(design: _Design, options: Sequence[Option]) -> list[str]:
    """Return in words which amounts of further training would decide, and which would not."""
    now = {"repeats": design.repeats, "seeds": design.seeds, "folds": design.folds}
    bring = [each for each in options if each["decides"]]
    fail = [each for each in options if not each["decides"]]
    said = []
    if bring:
        ways = []
        for each in bring:
            price = words.duration(each["seconds"], unknown="an unknown time")
            ways.append(
                f"{words.count(each['number'], each['what'][:-1])} (now {now[each['what']]}; "
                f"{price} of further trials)"
            )
        said.append(f"about {' or '.join(ways)} would be enough")
    if fail:
        tried = [words.count(each["number"], each["what"][:-1]) for each in fail]
        said.append(f"{' or '.join(tried)} would not be enough")
    return said


# ---- a run that looks until it is decided ----------------------------------------------------


def repeats_decide(found: OfDataset, most: int) -> bool:
    """Return whether a data set is undecided and at most `most` repeats would decide it."""
    return found["next"] is not None and any(
        option["what"] == "repeats" and option["decides"] and option["number"] <= most
        for option in found["next"]["options"]
    )


def none_added(
    datasets: Sequence[OfDataset], *, repeats: int, step: int, looks: int
) -> dict[str, str]:
    """Return why no repeat is added after a finished look, for each undecided data set of a run.

    Empty if repeats are added, since they can decide some data set, or if all are decided.
    """
    last = repeats >= looks * step
    if not last and any(repeats_decide(found, looks * step) for found in datasets):
        return {}
    return {
        found["dataset"]: f"no repeat is added: {_none_since(found, looks * step, looks, last)}"
        for found in datasets
        if found["state"] == "undecided"
    }


def _none_since(found: OfDataset, most: int, looks: int, last: bool) -> str:
    if last:
        return f"this was the last of {looks} looks"
    options = found["next"]["options"] if found["next"] else []
    option = next((each for each in options if each["what"] == "repeats"), None)
    if option is None or found["lead"] is None:
        return "the effect of more repeats is not known"
    if option["decides"]:
        return (
            f"a decision needs about {option['number']} repeats, and {looks} looks allow at most "
            f"{most}"
        )
    lead, margin = found["lead"]["estimate"], found["margin"]
    what, wanted = ("lead", lead) if lead >= margin else ("margin", margin)
    return (
        f"even {words.count(option['number'], 'repeat')} would not decide the lead (expected "
        f"half-width of its interval {words.score(option['half_width'])}, {what} "
        f"{words.score(wanted)})"
    )


# ---- before a study runs ---------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Foreseen:
    """What a planned study is expected to show on one data set, from a pilot.

    `prediction` is None if the pilot is too small. `folds`, `seeds` and `combinations` are the
    numbers used of the pilot; `note` says how the pilot differs from the study.
    """

    dataset: str
    metric: str
    prediction: Prediction | None
    folds: int
    seeds: int
    combinations: int
    note: str = ""

    def __str__(self) -> str:
        return self._expected() + (f"; {self.note}" if self.note else "")

    def _expected(self) -> str:
        metric = words.metric(self.metric)
        if self.prediction is None:
            return (
                f"{self.dataset}: the pilot is too small for a forecast; it needs two combinations "
                "that were scored on the same two folds"
            )
        p = self.prediction
        pilot = ", ".join(
            words.count(number, what)
            for number, what in (
                (self.combinations, "combination"),
                (self.folds, "fold"),
                (self.seeds, "seed"),
            )
        )
        half = words.score(p.half_width)
        return (
            f"{self.dataset}: the best one's lead over the next should be known to within {half} "
            f"{metric} (80 % range {words.score(p.low)} to {words.score(p.high)}); a lead of "
            f"{half} is found in half of such studies, one of {words.score(p.findable)} in 80 % "
            f"(from a pilot of {pilot})"
        )


def foreseen(contest: Contest, plan: Plan, rows_of: RowsOf, *, alpha: float) -> Foreseen:
    """Return what a planned study is expected to show on a data set, from its pilot's results.

    Of an unfinished pilot, the trials that all scored combinations have in common are used.
    """
    pilot = _in_common(contest)
    cells = {cell_of(row) for row in pilot[0].scored} if pilot else set()
    folds, seeds = len({cell[:2] for cell in cells}), len({cell[2] for cell in cells})
    prediction = None
    if len(pilot) > 1 and folds > 1:
        evidence = by_primary(contest, pilot, read_cases(pilot, rows_of))
        prediction = predict(evidence.evidence, plan, alpha=alpha)
    return Foreseen(
        dataset=contest.dataset,
        metric=contest.metric,
        prediction=prediction,
        folds=folds,
        seeds=seeds,
        combinations=len(pilot),
    )


def _in_common(contest: Contest) -> list[Combination]:
    """Return the scored combinations, each with only the trials that all of them have."""
    scored = [c for c in contest.combinations if len({fold_of(row) for row in c.scored}) > 1]
    if not scored:
        return []
    cells = set.intersection(*({cell_of(row) for row in c.scored} for c in scored))
    return [
        replace(
            c,
            trials=tuple(row for row in c.scored if cell_of(row) in cells),
            expected=len(cells),
        )
        for c in scored
    ]
