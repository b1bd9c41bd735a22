"""All settings of the entries that a study names: their rows' defaults and the study's own."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from bench.core.references import StudyError
from bench.optimizers.schedules import SCHEDULES
from bench.study.choice import Choice
from bench.study.components import loss_row, model_row, optimizer_row
from bench.study.regularizers import REGULARIZERS
from bench.study.schema import Study

# Key of an axis -> every setting of one of its entries.
_SETTINGS: dict[str, Callable[[Choice, Path], Mapping[str, Any]]] = {
    "models": lambda entry, base: model_row(entry.name, entry.params, base).row.settings,
    "optimizers": lambda entry, base: optimizer_row(entry.name, entry.params, base).row.settings(
        entry.params
    ),
    "losses": lambda entry, base: loss_row(entry.name, entry.params, base).row.settings(
        entry.params
    ),
    "schedules": lambda entry, _base: SCHEDULES[entry.name].settings(entry.params),
    "regularizers": lambda entry, _base: REGULARIZERS[entry.name].settings(entry.params),
}


def resolved(study: Study, base: Path) -> dict[str, Any]:
    """Return {axis: {label of an entry: {setting: value}}} of a study, as YAML can hold it.

    `base` is the folder that references in the study are relative to. What a regularizer sets in an
    optimizer is listed under the regularizer, and in the column `hparams` of each trial.

    Raises StudyError if the study has such a block, copied from a run, with other values: the block
    sets nothing, so an edit there would be lost.
    """
    found: dict[str, Any] = json.loads(
        json.dumps(
            {
                key: {entry.label: settings(entry, base) for entry in study.entries(key)}
                for key, settings in _SETTINGS.items()
            }
        )
    )
    for key, entries in study.resolved.items():
        for label, settings in entries.items():
            expected = found.get(key, {}).get(label, settings)
            # Runs made before a setting existed do not record it.
            if {**expected, **settings} != expected:
                raise StudyError(
                    f"resolved: {key}.{label} says {settings}, but the study gives {expected}. "
                    f"This block only records what a run used; set it under {key}, as "
                    f"`name: {{setting: value}}`."
                )
    return found


def together(before: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of an earlier call and of this one; this one's take precedence."""
    return {key: {**before.get(key, {}), **entries} for key, entries in now.items()}
