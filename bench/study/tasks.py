"""The tasks: one row each. What a study takes for a task, and how a case of it is scored.

What a target is in a store stands in `loaders.targets`, what is shown of a task in
`results.tables.tasks`, a row each under the same names.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from bench.metrics import classified, segmented
from bench.metrics.scoring import Seen
from loaders.store.read import Store

Rows = list[dict[str, Any]]


@dataclass(frozen=True, kw_only=True)
class Task:
    """One task of the table.

    - `served_by`: the task whose networks and losses serve this one: its own name, or another's.
    - `primary`: the metric that decides unless a study names another.
    - `batch`: samples a step by the number of dimensions, unless a study says.
    - `patch_multiple`: an automatic patch is the median shape brought up to a multiple of this; 1
      for whole images.
    - `windows`: whether a case is evaluated whole, by sliding windows of the patch, and not as the
      patch in its middle.
    - `stratified`: whether folds are stratified by the label of a case.
    - `score(seen)`: what its rows are made of, for each case; plain values and arrays, since they
      go from process to process.
    - `rows(store, cases, scores)`: the rows of `metrics` and of `cases` for (n,) cases.
    - `example(seen, place, score)`: the arrays that are shown of one case, but for its id.
    """

    name: str
    served_by: str
    primary: str
    batch: Mapping[int, int]
    patch_multiple: int
    windows: bool
    stratified: bool
    score: Callable[[Seen], list[Any]]
    rows: Callable[[Store, np.ndarray, list[Any]], tuple[Rows, Rows]]
    example: Callable[[Seen, int, Any], dict[str, np.ndarray]]


TASKS: dict[str, Task] = {
    row.name: row
    for row in (
        Task(
            name="classification",
            served_by="classification",
            primary="auc",
            # Here and below: what an 8 GB GPU and a laptop both hold. Assumption.
            batch={2: 32, 3: 8},
            patch_multiple=1,
            windows=False,
            stratified=True,
            score=classified.logits,
            rows=classified.rows,
            example=classified.example,
        ),
        Task(
            name="segmentation",
            served_by="segmentation",
            primary="dice",
            batch={2: 16, 3: 2},
            patch_multiple=16,  # which four levels of pooling divide
            windows=True,
            stratified=False,
            score=segmented.regions,
            rows=segmented.rows,
            example=segmented.example,
        ),
    )
}
