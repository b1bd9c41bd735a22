"""The study as it was run: what was compared, every setting, and which are not defaults."""

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
    "inner_fraction": "Inner validation, share of each training part",
    "epochs": "Budget in epochs (n_train sample-gradients each)",
    "batch_size": "Batch size",
    "patch": "Patch size, voxels per side",
    "augment": "Augmentation",
    "decay_norms": "Weight decay also on norms and biases",
    "clip": "Gradient norm clipped at (automatic: no clipping)",
    "accumulate": "Batches whose gradients are summed per step",
    "ema": "Decay of the moving average of weights (automatic: none)",
    "normalize": "Intensities",
    "early_stopping": "Early stopping (automatic: if the schedule's rate does not fall)",
    "patience": "Patience, in looks at inner validation without a better score",
    "looks": "Looks at inner validation, spread over the budget (automatic: after each epoch)",
    "stop_on": "Early stopping by",
    "overlap": "Overlap of sliding windows in evaluation",
    "inference": "Evaluation of segmented images: in windows, or whole if the network can",
    "primary": "Primary metric",
    "margin": "Margin of practical equivalence",
    "alpha": "Level of the simultaneous intervals",
    "race": "Level at which a race drops combinations after the first seed (automatic: no race)",
    "until_decided": "Repeats are added until it is decided (automatic: no)",
    "target": "Target of time-to-target",
    "tuning": "Search of each optimizer's space (automatic: none)",
    "loader": "Loader",
    "threads": "CPU threads per trial",
    "device": "Device",
    "precision": "Precision",
    "channels_last": "Channels last in memory",
    "compiled": "Compiled",
    "windows_at_once": "Windows evaluated at once (automatic: 4, or a batch)",
    "cudnn_benchmark": "cuDNN measures its kernels and uses the fastest",
    "cuda_graph": "The network's kernels are replayed as CUDA graphs",
    "speed": "Fastest settings of each model are measured (automatic: no)",
    "keep_weights": "Chosen weights are kept",
    "degrade": "Degraded test images",
}
_GIVEN_FOLDS = "Given splits: official parts, a file of folds, or a column"
# Settings that are lists of entries, like an axis.
_ENTRIES = ("degrade",)


def asked(study: Mapping[str, Any], key: str) -> list[str]:
    """Return the labels of a study's list of entries, in its order."""
    return [label(entry) for entry in study.get(key, ())]


def compared(study: Mapping[str, Any], axes: Sequence[Axis]) -> list[dict[str, Any]]:
    """Return the data and each axis with its values, except axes with only the plain entry."""
    found = [{"name": "data", "values": asked(study, "data")}]
    found += [{"name": axis.key, "values": axis.asked(study)} for axis in axes if study]
    plain = [[axis.plain] for axis in axes if axis.plain]
    return [axis for axis in found if axis["values"] and axis["values"] not in plain]


def settings(study: Mapping[str, Any], axes: Sequence[Axis]) -> list[dict[str, Any]]:
    """Return the protocol as it was run; `default` is set if the study departs from it."""
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
    """Return the settings that each data set has of its own."""
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

    They come in the order of the study. An optimizer for which another axis sets something (such as
    weight decay) has a line for each case. Tuned optimizers have other settings in each fold, which
    the section on tuning shows.
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
                "rate": "its own" if rate is None else text.setting(rate),
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
    """Return {"axis", "lines": [(entry, settings)], "complete"} of each axis except optimizers.

    An axis without settings is left out. A run made before study.yaml recorded every setting shows
    only those that its study gave.
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
    """Return lines like `NVIDIA H100 × 2: 352 trials`, the most used device first."""
    found = Counter(
        (row["device_name"], row["device_count"] or 1) for row in rows if row["device_name"]
    )
    return [
        f"{name}{f' × {size}' if size > 1 else ''}: {text.count(n, 'trial')}"
        for (name, size), n in found.most_common()
    ]
