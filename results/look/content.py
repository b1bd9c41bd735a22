"""What the page of a store shows, as plain values; `bench.look` reads them from a store."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True, kw_only=True)
class Plane:
    """One cut through a case.

    `image` is (H, W) of any type, or (H, W, 3) uint8 in colour; `labels` is (H, W) uint8, None if
    nothing is outlined; `pixel` is the height and width of a pixel, in any unit.
    """

    name: str
    image: np.ndarray
    labels: np.ndarray | None
    pixel: tuple[float, float] = (1.0, 1.0)


@dataclass(frozen=True, kw_only=True)
class Shown:
    """One case: its keyed id, its answer in words, its part, size and spacing, and its planes."""

    case_id: str
    answer: str
    facts: str
    planes: tuple[Plane, ...]


@dataclass(frozen=True, kw_only=True)
class Levels:
    """The distribution of the values of one channel: `edges` (n + 1,), and `shares` (n,), sum 1."""

    channel: str
    edges: np.ndarray
    shares: np.ndarray


@dataclass(frozen=True, kw_only=True)
class Content:
    """The content of a store's page.

    `data` describes the data set as in results (`bench.study.dataset.described`). `covered` is
    (number of classes in the shown cases, number of all). `counts` maps a heading to a list of
    (what, cases). `sizes` are the most common (size, spacing, cases) of `n_sizes`. `rejected` maps
    a reason to the keyed ids of its cases, and `again` is the command that names their files.
    `nonzero`: levels are of voxels other than zero.
    """

    name: str
    task: str
    data: Mapping[str, Any]
    warnings: Sequence[str]
    cases: Sequence[Shown]
    covered: tuple[int, int]
    seed: int
    counts: Mapping[str, Sequence[tuple[str, int]]]
    sizes: Sequence[tuple[str, str, int]]
    n_sizes: int
    levels: Sequence[Levels]
    nonzero: bool
    rejected: Mapping[str, Sequence[str]]
    again: str
