"""The study as it was run: what was compared, the settings, and which of them are not the usual."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from results import text
from results.tables.axes import Axis, label
from results.tables.protocol import DEFAULTS

_SETTINGS = {
    "folds": "Folds, grouped and stratified",
    "repeats": "Repeats, each split anew",
    "split_seed": "Seed of the splits",
    "seeds": "Seeds of weights and sample order",
    "inner_fraction": "Inner validation, share of a training part",
    "epochs": "Budget in epochs (n_train sample-gradients each)",
    "batch_size": "Batch size",
    "patch": "Patch, voxels a side",
    "augment": "Augmentation",
    "decay_norms": "Weight decay on norms and biases too",
    "clip": "Gradients clipped to the norm of (automatic: not)",
    "accumulate": "Batches whose gradients are summed for one step",
    "ema": "Weights averaged with a decay of (automatic: not)",
    "normalize": "Intensities",
    "early_stopping": "Early stopping (automatic: where the schedule's rate does not fall)",
    "patience": "Patience, looks at inner validation without a better score",
    "stop_on": "Inner validation stops on",
    "overlap": "Overlap of sliding windows in evaluation",
    "primary": "Primary metric",
    "margin": "Margin of practical equivalence",
    "alpha": "Level of the simultaneous intervals",
    "target": "Target of time-to-target",
    "loader": "Loader",
    "threads": "CPU threads a trial",
    "device": "Device",
    "precision": "Precision",
    "channels_last": "Channels innermost in memory",
    "compiled": "Compiled",
    "keep_weights": "Weights kept",
    "degrade": "Degraded test images",
}
# Settings that are lists of entries, as an axis is.
_ENTRIES = ("degrade",)


def asked(study: Mapping[str, Any], key: str) -> list[str]:
    """Return the labels of a list of entries of a study, in its order."""
    return [label(entry) for entry in study.get(key, ())]


def compared(study: Mapping[str, Any], axes: Sequence[Axis]) -> list[dict[str, Any]]:
    """Return the data and each axis with its values, but those with the plain entry alone."""
    found = [{"name": "data", "values": asked(study, "data")}]
    found += [{"name": axis.key, "values": axis.asked(study)} for axis in axes if study]
    plain = [[axis.plain] for axis in axes if axis.plain]
    return [axis for axis in found if axis["values"] and axis["values"] not in plain]


def settings(study: Mapping[str, Any], axes: Sequence[Axis]) -> list[dict[str, Any]]:
    """Return the protocol as it was run; `default` where the study departs from it."""
    other = {"name", "data", *(axis.key for axis in axes)}
    return [
        {
            "name": _SETTINGS.get(key, key.replace("_", " ")),
            "value": ", ".join(asked(study, key)) or "–" if key in _ENTRIES else _plain(value),
            "default": _plain(DEFAULTS[key])
            if key in DEFAULTS and value != DEFAULTS[key]
            else None,
        }
        for key, value in study.items()
        if key not in other
    ]


def data_settings(study: Mapping[str, Any]) -> list[dict[str, str]]:
    """Return what each data set sets for itself."""
    own = {
        label(entry): {
            k: v for k, v in entry.items() if k not in ("name", "store") and v is not None
        }
        for entry in study.get("data", ())
        if isinstance(entry, Mapping)
    }
    return [{"name": name, "value": _plain(values)} for name, values in own.items() if values]


def _plain(value: Any) -> str:
    """Return a setting as people write it: `64 × 64`, `flip yes, scale 0.1`, `automatic`."""
    if value is None:
        return "automatic"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Mapping):
        return ", ".join(f"{str(k).replace('_', ' ')} {_plain(v)}" for k, v in value.items()) or "–"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ", ".join(_plain(v) for v in value) or "–"
    return f"{value:g}" if isinstance(value, float) else str(value)


def devices(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return `NVIDIA H100 x 1: 352 trials`, the most used first."""
    found = Counter(
        (row["device_name"], row["device_count"] or 1) for row in rows if row["device_name"]
    )
    return [
        f"{name}{f' × {size}' if size > 1 else ''}: {text.count(n, 'trial')}"
        for (name, size), n in found.most_common()
    ]
