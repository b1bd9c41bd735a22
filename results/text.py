"""How numbers and names are written for people, alike in the page, the terminal and verdicts."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

# Names that need capitals or other words; any other metric goes by its own name.
_METRICS = {
    "auc": "AUC",
    "dice": "Dice",
    "iou": "IoU",
    "hd95": "HD95",
    "nsd": "NSD",
    "assd": "ASSD",
    "froc": "FROC",
    "f1": "F1",
    "mcc": "MCC",
    "brier": "Brier score",
    "mae": "MAE",
    "rmse": "RMSE",
    "r2": "R²",
    "pearson": "Pearson's r",
    "sensitivity_at_5_percent_fpr": "sensitivity at 5 % false positives",
    "sensitivity_at_10_percent_fpr": "sensitivity at 10 % false positives",
}

#: The states of a verdict, as shown to people.
STATES = {
    "better": "Better",
    "tie": "Tie",
    "undecided": "Undecided",
    "none": "No verdict",
}

MINUS = "\N{MINUS SIGN}"


def metric(name: str) -> str:
    """Return the name of a metric as people write it."""
    return _METRICS.get(name, name.replace("_", " "))


def metric_in(name: str, unit: str | None) -> str:
    """Return a metric's name with its unit, if it has one: `HD95 (mm)`."""
    return metric(name) if unit in (None, "1") else f"{metric(name)} ({unit})"


def score(value: float | None) -> str:
    """Return a score with three decimals up to 10, one beyond; a dash if there is none."""
    if value is None or not math.isfinite(value):
        return "–"
    text = f"{abs(value):.3f}" if abs(value) < 10 else f"{abs(value):.1f}"
    return f"{MINUS}{text}" if value < 0 and float(text) else text


def signed(value: float | None) -> str:
    """Return a difference with its sign, a true minus, and no sign on zero."""
    text = score(value)
    return f"+{text}" if text[0].isdigit() and float(text) else text


def interval(low: float | None, high: float | None, alpha: float) -> str:
    """Return an interval with its level: `95 % interval 0.811 to 0.934`; empty without one."""
    if low is None or high is None:
        return ""
    return f"{percent(1 - alpha)} interval {score(low)} to {score(high)}"


def scored(value: float | None, low: float | None, high: float | None, alpha: float) -> str:
    """Return a score with its interval: `0.870 (95 % interval 0.811 to 0.934)`.

    An interval without width is left out: scores that are equal in all folds show no uncertainty.
    """
    reach = "" if low == high else interval(low, high, alpha)
    return f"{score(value)} ({reach})" if reach else score(value)


def against_best(advantage: Mapping[str, float], *, tied: bool, alone: bool) -> str:
    """Return in words what an interval against the best says about one combination.

    `tied`: it is in the group that may be the best; `alone`: it is the only one there. If it is not
    tied, or alone, one end is 0 by the method, not by measurement; only the other end is named.
    """
    if not tied:
        return f"at most {score(-advantage['low'])} behind"
    if alone:
        return f"at most {score(advantage['high'])} ahead"
    return f"{signed(advantage['low'])} to {signed(advantage['high'])}"


def setting(value: Any) -> str:
    """Return a setting as people write it: `64, 64`, `flip yes, scale 0.1`, `automatic`."""
    if value is None:
        return "automatic"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Mapping):
        return ", ".join(f"{str(k).replace('_', ' ')} {setting(v)}" for k, v in value.items())
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ", ".join(setting(v) for v in value) or "–"
    return f"{value:g}" if isinstance(value, float) else str(value)


def short_names(rows: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Return name -> label of a verdict's combinations: without the model if there is only one.

    Models that are always skipped do not count.
    """
    models = {row["model"] for row in rows if row["state"] != "skipped"}
    alone = f"{models.pop()} + " if len(models) == 1 else ""
    return {row["name"]: row["name"].removeprefix(alone) for row in rows}


def duration(seconds: float | None, *, unknown: str = "–", clock: bool = False) -> str:
    """Return seconds in words: `0.8 s`, `12 s`, `4 min 10 s`, `2 h 5 min`.

    `unknown` stands for a missing number. With `clock`, the time is shown as by a running clock:
    without tenths of a second, and beyond an hour in full minutes only.
    """
    if seconds is None or not math.isfinite(seconds):
        return unknown
    if seconds < 10 and not clock:
        return f"{seconds:.1f} s" if seconds >= 0.05 or not seconds else "under 0.1 s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    hours, minutes = divmod(whole // 60 if clock else round(whole / 60), 60)
    return f"{hours} h {minutes} min"


def rate(value: float | None) -> str:
    """Return a rate: three significant digits below 100, else a whole number with separators."""
    if value is None or not math.isfinite(value):
        return "–"
    if value >= 100:
        return f"{value:,.0f}".replace(",", "\N{NARROW NO-BREAK SPACE}")
    return f"{value:.3g}"


def p_value(value: float) -> str:
    """Return a p-value with three decimals, or `< 0.001`, since none is 0."""
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def percent(share: float) -> str:
    """Return a share as a percentage without needless decimals."""
    return f"{100 * share:.4g} %"


def listed(names: Sequence[str]) -> str:
    """Return `a`, `a and b`, `a, b and c`."""
    if len(names) < 2:
        return "".join(names)
    return f"{', '.join(names[:-1])} and {names[-1]}"


def count(number: int, what: str) -> str:
    """Return `1 fold`, `5 folds`."""
    return f"{number} {what}" if number == 1 else f"{number} {what}s"
