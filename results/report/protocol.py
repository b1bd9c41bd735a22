"""The study as it was run: what was compared, every setting, and which are not the usual."""

import json
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
    "looks": "Looks at inner validation, evenly over the budget (automatic: after each epoch)",
    "stop_on": "Inner validation stops on",
    "overlap": "Overlap of sliding windows in evaluation",
    "inference": "Segmented images are evaluated in windows, or whole where the network can",
    "primary": "Primary metric",
    "margin": "Margin of practical equivalence",
    "alpha": "Level of the simultaneous intervals",
    "race": "Level at which a race drops what is behind after the first seed (automatic: none)",
    "until_decided": "Repeats are added until it is decided (automatic: not)",
    "target": "Target of time-to-target",
    "tuning": "Search of each optimizer's space (automatic: none)",
    "loader": "Loader",
    "threads": "CPU threads a trial",
    "device": "Device",
    "precision": "Precision",
    "channels_last": "Channels innermost in memory",
    "compiled": "Compiled",
    "windows_at_once": "Windows at once in evaluation (automatic: 4, or a batch)",
    "cudnn_benchmark": "cuDNN takes the kernels that it finds fastest",
    "speed": "The fastest settings of each model are measured (automatic: not)",
    "keep_weights": "Weights kept",
    "degrade": "Degraded test images",
}
_GIVEN_FOLDS = "Splits that others made: official parts, a file of folds, or a column"
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
    other = {"name", "data", "resolved", *(axis.key for axis in axes)}
    return [
        {
            "name": _GIVEN_FOLDS
            if key == "folds" and isinstance(value, str)
            else _SETTINGS.get(key, key.replace("_", " ")),
            "value": (", ".join(asked(study, key)) if key in _ENTRIES else text.setting(value))
            or "–",
            "default": text.setting(DEFAULTS[key])
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
    return [{"name": name, "value": text.setting(values)} for name, values in own.items() if values]


def optimizers(rows: Sequence[Mapping[str, Any]], study: Mapping[str, Any]) -> list[dict[str, str]]:
    """Return each optimizer with its learning rate and its other settings, as its trials had them.

    They come in the order of the study. One that another axis sets something for (weight decay,
    say) has a line for each of these. What was tuned has settings in each fold, which stand there.
    """
    found: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        if row["hparams"] and not row["tuned"]:
            under = found.setdefault((row["optimizer"], row["hparams"]), [])
            regularizer = row["regularizer"] or "none"
            if regularizer not in under:
                under.append(regularizer)
    names = Counter(name for name, _ in found)
    order = [*asked(study, "optimizers"), *names]
    lines = []
    for (name, written), under in sorted(found.items(), key=lambda item: order.index(item[0][0])):
        settings = json.loads(written, parse_constant=str)
        rate = settings.pop("lr", None)
        lines.append(
            {
                "name": name,
                "under": f"with {text.listed(under)}" if names[name] > 1 else "",
                "rate": "of its own" if rate is None else text.setting(rate),
                "others": _by_name(settings),
            }
        )
    return lines


def _by_name(settings: Mapping[str, Any]) -> str:
    """Return settings as a study takes them: `momentum=0.9, betas=(0.9, 0.999)`."""
    said = []
    for name, value in settings.items():
        several = isinstance(value, Sequence) and not isinstance(value, str)
        written = text.setting(value)
        said.append(f"{name}=({written})" if several else f"{name}={written}")
    return ", ".join(said) or "–"


def entries(study: Mapping[str, Any], axes: Sequence[Axis]) -> list[dict[str, Any]]:
    """Return {"axis", "lines": [(entry, settings)]} of the axes besides optimizers.

    An axis without settings is left out. A run made before study.yaml recorded every setting has
    those alone that its study gave.
    """
    resolved = study.get("resolved") or {}
    found = []
    for axis in axes:
        if axis.key == "optimizers":
            continue
        every = resolved.get(axis.key) or {
            label(entry): entry.get("params") or {}
            for entry in study.get(axis.key) or ()
            if isinstance(entry, Mapping)
        }
        lines = [(name, _by_name(settings)) for name, settings in every.items()]
        if any(every.values()):
            found.append({"axis": axis.key, "lines": lines, "complete": axis.key in resolved})
    return found


def devices(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return `NVIDIA H100 x 1: 352 trials`, the most used first."""
    found = Counter(
        (row["device_name"], row["device_count"] or 1) for row in rows if row["device_name"]
    )
    return [
        f"{name}{f' × {size}' if size > 1 else ''}: {text.count(n, 'trial')}"
        for (name, size), n in found.most_common()
    ]
