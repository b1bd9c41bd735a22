"""The tasks: one row each, with a study's defaults for a task and how its cases are scored.

`loaders.targets` defines a task's targets in a store and `results.tables.tasks` what reports show
of it, one row each under the same names.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from loaders.sampling.normalization import class_weights, presence_weights
from models.late import late

if TYPE_CHECKING:
    from torch import Tensor

    from bench.metrics.tasks.scoring import Scale, Seen
    from loaders.sampling.folds import Strata
    from loaders.sampling.sampler import Sampler
    from loaders.store.read import Store

# Imported when something is computed: a study is read without torch.
_torch = late("torch")
_classified = late("bench.metrics.tasks.classified")
_findings = late("bench.metrics.tasks.findings")
_measured = late("bench.metrics.tasks.measured")
_scoring = late("bench.metrics.tasks.scoring")
_segmented = late("bench.metrics.tasks.segmented")
_drawn = late("loaders.batches.drawn")

Rows = list[dict[str, Any]]

# Number of equally large bins by which folds of numbers are stratified: assumption.
BINS = 5


@dataclass(frozen=True, kw_only=True)
class Task:
    """One task of the table.

    - `served_by`: the task whose losses, metrics and regularizers serve this one: its own name, or
      another's. `networks`: the task whose networks serve it.
    - `primary`: the metric that decides unless a study names another.
    - `batch`: samples per step by the number of dimensions, unless a study says otherwise.
    - `patch_multiple`: an automatic patch is the median shape rounded up to a multiple of this; 1
      for whole images.
    - `windows`: whether a whole case is evaluated in sliding windows of the patch, rather than only
      the patch in its middle.
    - `strata(store)`: what folds are stratified by.
    - `weights(store, sampler)`: the weights (n_classes,) of a weighted loss; raises FoldError if a
      class has none.
    - `target(shape)`: a target that fits logits of this shape, drawn from torch's generator, to try
      a user's own loss with.
    - `scale(store, cases)`: the scale in which a network learns numbers, from the cases that it
      trains on; None: answers are learned as they are.
    - `right(store, cases)`: the rows of `metrics` for the right answers to some cases.
    - `score(seen)`: the material of its rows, for each case; plain values and arrays, since they go
      from process to process.
    - `rows(store, cases, scores)`: the rows of `metrics` and of `cases` for (n,) cases.
    - `example(seen, place, score)`: the arrays that reports show of one case, without its id.
    """

    name: str
    served_by: str
    networks: str
    primary: str
    batch: Mapping[int, int]
    patch_multiple: int
    windows: bool
    strata: Callable[[Store], Strata]
    weights: Callable[[Store, Sampler], np.ndarray]
    target: Callable[[tuple[int, ...]], Tensor]
    scale: Callable[[Store, np.ndarray], Scale | None]
    right: Callable[[Store, np.ndarray], Rows]
    score: Callable[[Seen], list[Any]]
    rows: Callable[[Store, np.ndarray, list[Any]], tuple[Rows, Rows]]
    example: Callable[[Seen, int, Any], dict[str, np.ndarray]]


def _by_class(store: Store) -> Strata:
    """Stratify by the class of a case; every part must hold every class."""
    return {"labels": store.labels, "present": None, "overlap": False, "names": ()}


def _by_region(store: Store) -> Strata:
    """Stratify by the regions that a case holds."""
    return {
        "labels": None,
        "present": store.boxes[:, :, 0, 0] >= 0,
        "overlap": False,
        "names": tuple(f"region {name}" for name in store.meta.regions),
    }


def _by_finding(store: Store) -> Strata:
    """Stratify by each finding that a case is known to have, or not to have."""
    names = store.meta.classes
    return {
        "labels": None,
        "present": np.concatenate([store.numbers == 1, store.numbers == 0], axis=1),
        "overlap": True,
        "names": (*(f"finding {n}" for n in names), *(f"the absence of {n}" for n in names)),
    }


def _by_frequency(store: Store, sampler: Sampler) -> np.ndarray:
    """Weigh each class by its inverse share of the samples drawn."""
    return class_weights(_drawn.class_counts(store, sampler))


def _by_presence(store: Store, sampler: Sampler) -> np.ndarray:
    """Weigh each present finding by the number of cases without it for one with it."""
    return presence_weights(store.numbers[sampler.cases], store.meta.classes)


def _alike(store: Store, _sampler: Sampler) -> np.ndarray:
    """Weigh all alike."""
    return np.ones(len(store.meta.classes))


def _as_they_are(_store: Store, _cases: np.ndarray) -> None:
    """Learn answers as they are."""


def _standardized(store: Store, cases: np.ndarray) -> Scale:
    """Learn numbers in standard deviations from the mean of some cases; 1 if all are equal."""
    numbers = store.numbers[cases]
    deviation = numbers.std(axis=0)
    deviation = np.where(deviation > 0, deviation, 1.0)
    scale: Scale = _scoring.Scale(mean=numbers.mean(axis=0), deviation=deviation)
    return scale


def _by_quantile(store: Store) -> Strata:
    """Stratify by the fifth of all numbers that a case's number is in."""
    numbers = store.numbers[:, 0]
    edges = np.unique(np.quantile(numbers, np.linspace(0, 1, BINS + 1)[1:-1]))
    bin_of = np.searchsorted(edges, numbers, side="right")
    bins = np.unique(bin_of)
    return {
        "labels": None,
        "present": bin_of[:, None] == bins,
        "overlap": False,
        "names": tuple(
            f"{store.meta.classes[0]} from {own.min():g} to {own.max():g}"
            for own in (numbers[bin_of == one] for one in bins)
        ),
    }


def _classes(shape: tuple[int, ...]) -> Tensor:
    """Draw a class for each place of logits (N, C, ...)."""
    drawn: Tensor = _torch.randint(0, shape[1], (shape[0], *shape[2:]))
    return drawn


def _yes_or_no(shape: tuple[int, ...]) -> Tensor:
    """Draw 0 or 1 for each logit."""
    drawn: Tensor = _torch.randint(0, 2, shape).float()
    return drawn


TASKS: dict[str, Task] = {
    row.name: row
    for row in (
        Task(
            name="classification",
            served_by="classification",
            networks="classification",
            primary="auc",
            # Here and below: what an 8 GB GPU and a laptop both hold. Assumption.
            batch={2: 32, 3: 8},
            patch_multiple=1,
            windows=False,
            strata=_by_class,
            weights=_by_frequency,
            target=_classes,
            scale=_as_they_are,
            right=_classified.right,
            score=_classified.logits,
            rows=_classified.rows,
            example=_classified.example,
        ),
        Task(
            name="segmentation",
            served_by="segmentation",
            networks="segmentation",
            primary="dice",
            batch={2: 16, 3: 2},
            patch_multiple=16,  # which four levels of pooling divide
            windows=True,
            strata=_by_region,
            weights=_by_frequency,
            target=_classes,
            scale=_as_they_are,
            right=_segmented.right,
            score=_segmented.regions,
            rows=_segmented.rows,
            example=_segmented.example,
        ),
        Task(
            name="multilabel",
            served_by="multilabel",
            networks="classification",
            primary="auc",
            batch={2: 32, 3: 8},  # as classification
            patch_multiple=1,
            windows=False,
            strata=_by_finding,
            weights=_by_presence,
            target=_yes_or_no,
            scale=_as_they_are,
            right=_findings.right,
            score=_classified.logits,
            rows=_findings.rows,
            example=_findings.example,
        ),
        Task(
            name="ordinal",
            served_by="ordinal",
            networks="classification",
            primary="quadratic_kappa",
            batch={2: 32, 3: 8},  # as classification
            patch_multiple=1,
            windows=False,
            strata=_by_class,
            weights=_by_frequency,
            target=_classes,
            scale=_as_they_are,
            right=partial(_classified.right, graded=True),
            score=_classified.logits,
            rows=partial(_classified.rows, graded=True),
            example=_classified.example,
        ),
        Task(
            name="regression",
            served_by="regression",
            networks="classification",
            primary="mae",
            batch={2: 32, 3: 8},  # as classification
            patch_multiple=1,
            windows=False,
            strata=_by_quantile,
            weights=_alike,
            target=_torch.randn,
            scale=_standardized,
            right=_measured.right,
            score=_measured.predictions,
            rows=_measured.rows,
            example=_measured.example,
        ),
    )
}
