"""A store that tells more of its cases than their images: clinical data and what readers said."""

import dataclasses
from pathlib import Path

import numpy as np

from bench.study.choice import Choice
from bench.study.dataset import DataSet, split_store
from loaders.cases import Case, Item, Survey
from loaders.store.read import Store, open_store
from loaders.store.write import write_store
from tests.conftest import SMALL, small_meta

RATINGS = [[1, 2, 5, 4], [3, 3, 3], [4, 5], [0, 5, 0, 3], [1, 1, 1, 1]]
# What of it a trial is given or taught, and how its combination calls that.
TOLD = {
    "clinical": {"clinical": Choice(name="with_clinical"), "given_clinical": True},
    "soft readers": {"labels": Choice(name="soft_readers"), "readers": "soft"},
    "one reader": {"labels": Choice(name="one_reader"), "readers": "one"},
    "flipped": {"labels": Choice(name="flipped", params={"share": 0.3}), "flipped": 0.3},
    "clinical, soft readers, mixed": {
        "clinical": Choice(name="with_clinical"),
        "given_clinical": True,
        "labels": Choice(name="soft_readers"),
        "readers": "soft",
        "mixup": 0.3,
    },
}


def told_store(out: Path) -> Store:
    """Write a store of nodules with an age, a sex and four readers' malignancy; return it."""
    meta = dataclasses.replace(
        small_meta("classification", 2),
        kind="lidc",
        options={"task": "malignancy", "categories": {"sex": ["f", "m"]}},
    )
    rng = np.random.default_rng(0)

    def cases():
        for n in range(40):
            label = int(np.mean(RATINGS[n % 5]) > 2.4)
            yield Case(
                key=f"n{n}",
                group=f"n{n}",
                image=rng.integers(0, 255, (2, 16, 16)).astype(np.uint8),
                label=label,
                mask=None,
                spacing=(1.0, 1.0),
                ratings={"malignancy": RATINGS[n % 5]},
                clinical={
                    "age": float("nan") if n % 7 == 0 else 40 + 30 * label + rng.normal(0, 5),
                    "sex": float("nan") if n % 6 == 0 else float(rng.integers(2)),
                },
            )

    kind = dataclasses.replace(SMALL, read=lambda _item, _meta: cases())
    survey = Survey(meta=meta, items=(Item(key="all", paths=(), extra={}),), rejected=())
    write_store(kind, survey, out, key=b"t", workers=1, strict=True)
    return open_store(out)


def told_data(store: Store) -> DataSet:
    """Return the data set of a trial by `make_trial`."""
    splits = split_store(store, folds=4, repeats=1, seed=0, inner_fraction=0.25)
    return DataSet(name="small", path=store.path, splits=splits)
