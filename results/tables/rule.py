"""The rule of a run as it was before its first trial: `rule.json` in the run folder.

A margin or a metric that is chosen after the results proves nothing. So what the verdict uses of
the study is written down before there are results, with a hash of the whole study, and a verdict
says what has changed since. Every file of results also repeats the study in its footer.
"""

import hashlib
import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from results.tables.axes import label
from results.tables.files import replace_file
from results.tables.protocol import DEFAULTS

RULE = "rule.json"
_KEYS = ("primary", "margin", "deviations", "alpha")


def fix_rule(run: Path, study: Mapping[str, Any]) -> None:
    """Write the rule of a run that has neither a rule nor a result; `study` is its study.yaml."""
    begun = (run / "trials").is_dir() and any((run / "trials").iterdir())
    if begun or (run / RULE).exists():
        return
    text = json.dumps(_placeless(study), sort_keys=True, ensure_ascii=False, allow_nan=False)
    rule = {"hash": hashlib.sha256(text.encode()).hexdigest(), **_of(study)}
    replace_file(run / RULE, f"{json.dumps(rule, indent=2, ensure_ascii=False)}\n".encode())


def read_rule(run: Path, footer: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return `hash` and what decides a verdict, as it was before the first trial.

    That is `primary`, `margin`, `alpha`, and `deviations`, which `margin_of` needs.

    For a run that began without `rule.json`, or whose file is no longer a valid rule, these come
    from the footers of its trials, without a hash; None if those say nothing.
    """
    try:
        content = json.loads((run / RULE).read_text(encoding="utf-8"))
    except (FileNotFoundError, UnicodeDecodeError, json.JSONDecodeError):
        content = None
    protocol = footer.get("protocol") or {}
    if _is_rule(content):
        # Older rules have no deviations; data sets that were added later are in no rule.
        rule = {key: {"deviations": {}, **content}[key] for key in ("hash", *_KEYS)}
        found = _of(protocol)
        found["deviations"] = {name: found["deviations"].get(name) for name in rule["deviations"]}
        if not protocol or {"hash": rule["hash"], **found} == rule:
            return rule
    return {"hash": None, **_of(protocol)} if protocol else None


def _placeless(study: Mapping[str, Any]) -> dict[str, Any]:
    """Return a study without the paths of its data, which are identified by their content hash.

    So a study in another folder, or on another machine, is the same.
    """
    data = [
        {key: value for key, value in entry.items() if key not in ("store", "test")}
        for entry in study.get("data", [])
    ]
    return {**study, "data": data}


def deviations_of(study: Mapping[str, Any]) -> dict[str, float]:
    """Return data set -> standard deviation of its numbers, if the margin is in units of these."""
    return {
        label(entry): float(entry["deviation"])
        for entry in study.get("data", ())
        if isinstance(entry, Mapping) and entry.get("deviation")
    }


def margin_of(study: Mapping[str, Any], dataset: str) -> float:
    """Return the difference that does not matter on a data set, in the unit of its metric."""
    margin = float(study.get("margin", DEFAULTS["margin"]))
    return margin * deviations_of(study).get(dataset, 1.0)


def _of(study: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "primary": dict(study.get("primary") or {}),
        "deviations": deviations_of(study),
        **{key: float(study.get(key, DEFAULTS[key])) for key in ("margin", "alpha")},
    }


def _is_rule(content: Any) -> bool:
    return (
        isinstance(content, dict)
        and isinstance(content.get("hash"), str)
        and isinstance(content.get("primary"), dict)
        and isinstance(content.get("deviations", {}), dict)
        and all(isinstance(content.get(key), float) for key in ("margin", "alpha"))
    )


def in_words(rule: Mapping[str, Any], tasks: Collection[str]) -> str:
    """Return the rule as a run prints it before its first trial, for the tasks of its data."""
    primary = ", ".join(
        f"{metric} ({task})" for task, metric in rule["primary"].items() if task in tasks
    )
    study = f"study {rule['hash'][:12]}, " if rule["hash"] else ""
    counted = "".join(
        f"; {name}: {rule['margin'] * deviation:g} in the unit of its numbers, whose standard "
        f"deviation is {deviation:g}"
        for name, deviation in rule["deviations"].items()
    )
    return (
        f"rule: {study}judged by {primary or 'each task by its own metric'}, margin "
        f"{rule['margin']:g}{counted}, alpha {rule['alpha']:g}; fixed before the first trial"
    )
