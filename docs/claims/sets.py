"""Data sets made of prepared stores: fewer of their patients, or more of their entries zero.

Each function is a data set of the user's own, `sets.py:skin_50` in a study, and reads the store
`stores/NAME` beside this file or, where that is not there, below the working folder.
"""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from loaders.cases import Case, Meta
from loaders.store.read import Store

_SIZES = (50, 100, 200)
# Percent of the entries that are zero. Assumption.
_ZEROS = (0, 90)


def _made(
    name: str, *, patients: int | None = None, zeros: float = 0.0
) -> tuple[Meta, Iterator[Case]]:
    beside = Path(__file__).parent / "stores" / name
    store = Store(beside if beside.is_dir() else Path("stores") / name)
    groups = sorted(set(store.groups))
    # The same order for every size: those of a smaller one are in every larger one.
    order = np.random.default_rng(0).permutation(len(groups))[:patients]
    kept = {groups[i] for i in order}
    label = f"{name}-{patients}" if patients else f"{name}-zeros-{round(100 * zeros)}"
    meta = replace(store.meta, name=label)

    def cases() -> Iterator[Case]:
        for row, group in enumerate(store.groups):
            if group not in kept:
                continue
            image = np.array(store.image(row))
            draw = np.random.default_rng(int(store.hashes[row][:16], 16))
            # A pixel is lost in all its channels.
            image[:, draw.random(image.shape[1:]) < zeros] = 0
            yield Case(
                key=store.case_ids[row],
                group=group,
                image=image,
                label=int(store.labels[row]),
                mask=None,
                spacing=tuple(float(side) for side in store.spacing[row]),
            )

    return meta, cases()


for _name in ("breastmnist", "skin"):
    for _size in _SIZES:
        globals()[f"{_name}_{_size}"] = partial(_made, _name, patients=_size)
    for _share in _ZEROS:
        globals()[f"{_name}_zeros_{_share}"] = partial(_made, _name, zeros=_share / 100)
