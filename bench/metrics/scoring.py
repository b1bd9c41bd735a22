"""What a network made of some cases, as the functions that score a task are given it."""

from dataclasses import dataclass

import numpy as np
from torch import Tensor

from loaders.cases import Meta
from loaders.store.read import Store


@dataclass(frozen=True, kw_only=True)
class Seen:
    """Cases of a store that went through a network together.

    - `cases` (n,): their indices. `pixels` (n, channels, *spatial): the images it was given.
    - `logits` (n, classes) or (n, classes, *spatial), float32, on the device. `target` (n,) or
      (n, *spatial): the answers of the store.
    - `presence` (classes,): the log-odds by which it finds each label anywhere in the one case
      there is; None for a network that says nothing of it.
    - `costly`: whether distances, lesions and probabilities are asked for.
    """

    store: Store
    cases: np.ndarray
    pixels: np.ndarray
    logits: Tensor
    target: np.ndarray
    presence: np.ndarray | None
    costly: bool

    @property
    def meta(self) -> Meta:
        """What holds for every case of the store."""
        return self.store.meta

    @property
    def ids(self) -> list[dict[str, str]]:
        """Return the keyed ids of each case, as the table `cases` has them."""
        return ids_of(self.store, self.cases)


def ids_of(store: Store, cases: np.ndarray) -> list[dict[str, str]]:
    """Return the keyed ids of some cases, as the table `cases` has them."""
    return [{"case_id": store.case_ids[i], "group_id": store.groups[i]} for i in cases]
