"""Splits that others made: kept as they are, counted where they leak, refused where broken."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.model_selection import LeaveOneGroupOut

from loaders.sampling.assign import FoldError
from loaders.sampling.folds import Split, check_splits
from loaders.sampling.given import (
    GivenFold,
    check_given,
    complete,
    folds_by_value,
    official_fold,
    shared_of,
)

CLASSES = ("benign", "malignant")


def facts(n: int, groups: list[str] | None = None) -> dict[str, object]:
    """Return what `complete` asks of n cases that alternate between two classes."""
    return {
        "labels": np.arange(n) % 2,
        "groups": groups or [f"patient {k}" for k in range(n)],
        "hashes": [f"{(k * 7919) % 1000:03d}" for k in range(n)],
        "classes": CLASSES,
        "seed": 0,
        "inner_fraction": 0.25,
    }


def test_official_parts_are_the_splits_own_parts() -> None:
    parts = ["train", "val", "test", "train", "val", "test", "train", "train"]
    (split,) = complete([official_fold(parts)], **facts(8))
    assert split.train.tolist() == [0, 3, 6, 7]
    assert split.inner.tolist() == [1, 4]
    assert split.test.tolist() == [2, 5]
    assert (split.repeat, split.fold) == (0, 0)


def test_without_a_val_part_inner_validation_is_dealt_out_of_training_by_patient() -> None:
    groups = [f"patient {k // 4}" for k in range(80)]
    parts = ["train"] * 64 + ["test"] * 16
    kept = {**facts(80, groups), "labels": np.arange(80) // 2 % 2}
    (split,) = complete([official_fold(parts)], **kept)
    assert split.test.tolist() == list(range(64, 80))
    assert np.sort(np.concatenate([split.train, split.inner])).tolist() == list(range(64))
    assert {groups[k] for k in split.train}.isdisjoint({groups[k] for k in split.inner})
    assert len(split.inner) == 16  # a quarter of 16 patients, each of whom has four
    again = complete([official_fold(parts)], **kept)
    assert again[0].inner.tolist() == split.inner.tolist()
    other = complete([official_fold(parts)], **{**kept, "seed": 1})
    assert other[0].inner.tolist() != split.inner.tolist()


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 4), min_size=40, max_size=60))
def test_a_columns_folds_are_those_of_scikit_learns_leave_one_group_out(values) -> None:
    if len(set(values)) < 2:
        return
    theirs = [
        (train.tolist(), test.tolist())
        for train, test in LeaveOneGroupOut().split(np.zeros(len(values)), groups=values)
    ]
    ours = [(fold.train.tolist(), fold.test.tolist()) for fold in folds_by_value(values)]
    assert ours == theirs


def test_whole_splits_by_a_column_keep_all_promises_that_ours_keep() -> None:
    """Where groups lie within a value, what others made is as strict as what is dealt here."""
    groups = [f"patient {k // 2}" for k in range(120)]
    kept = {**facts(120, groups), "labels": np.arange(120) // 4 % 2}
    splits = complete(folds_by_value([k // 40 for k in range(120)]), **kept)
    assert [split.fold for split in splits] == [0, 1, 2]
    check_splits(splits, groups, kept["labels"], CLASSES)
    assert shared_of(splits, groups, [None] * 120).people == 0


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        (["train"] * 8, "no cases of test"),
        (["test"] * 8, "no cases of train"),
        (["val", "test"] * 4, r"no cases of train \(train 0, val 4, test 4\)"),
        (["train", "test", None, "test"] * 2, "2 of 8 cases are in none of the parts"),
        (["train", "test", "extra", "test"] * 2, "2 of 8 cases are in none of the parts"),
    ],
)
def test_official_parts_that_make_no_fold_are_told(parts, said) -> None:
    with pytest.raises(FoldError, match=said):
        official_fold(parts)


def test_a_column_of_one_value_leaves_nothing_to_train_on() -> None:
    with pytest.raises(FoldError, match="only one value"):
        folds_by_value([3] * 8)


def test_a_class_that_training_lacks_is_refused_with_its_name() -> None:
    parts = ["train", "test"] * 4  # labels alternate too
    with pytest.raises(
        FoldError, match="'malignant' has 0 cases in the training part and 4 in all"
    ):
        complete([official_fold(parts)], **facts(8))


def test_a_class_of_one_patient_in_training_cannot_give_inner_validation() -> None:
    groups = ["one" if k % 2 else f"patient {k}" for k in range(20)]
    with pytest.raises(FoldError, match="class 'malignant' has 7 cases in 1 groups"):
        complete([official_fold(["train"] * 14 + ["test"] * 6)], **facts(20, groups))


def part(*rows: int) -> np.ndarray:
    return np.array(rows, dtype=np.int64)


@pytest.mark.parametrize(
    ("fold", "said"),
    [
        ((part(0, 1, 2), part(3), part(3, 4)), "inner and test share cases, 1 in all"),
        ((part(0, 1, 2), part(2), part(3, 4)), "train and inner share cases, 1 in all"),
        ((part(0, 1, 2), part(3), part()), "the test part is empty"),
        ((part(0, 1, 2), part(), part(3)), "the inner part is empty"),
        ((part(0, 1, 1), part(2), part(3)), "the train part names a case twice"),
    ],
)
def test_parts_that_are_empty_or_share_a_case_are_refused(fold, said) -> None:
    train, inner, test = fold
    split = Split(repeat=0, fold=2, train=train, inner=inner, test=test)
    with pytest.raises(FoldError, match=f"fold 2: {said}"):
        check_given([split], labels=np.arange(5) % 2, classes=CLASSES)
    given_fold = GivenFold(name="fold 2", train=train, inner=inner, test=test)
    with pytest.raises(FoldError, match=f"fold 2: {said}"):
        complete([given_fold], **facts(5))


def test_test_cases_that_share_a_patient_or_their_pixels_with_training_are_counted() -> None:
    split = Split(repeat=0, fold=0, train=part(0, 1), inner=part(2), test=part(3, 4, 5, 6))
    groups = ["a", "b", "c", "c", "d", "a", "e"]
    images = ["x", None, "y", "z", "y", "q", None]
    found = shared_of([split], groups, images)
    # 3 shares patient c with inner, 5 patient a with training; 4 the pixels of 2. Two images of one
    # value are no copies.
    assert (found.tested, found.people, found.images) == (4, 2, 1)


def test_segmented_cases_need_no_class_and_spread_their_regions() -> None:
    present = np.arange(40)[:, None] % 8 == 0  # 5 of 40 hold the region
    kept = {**facts(40), "labels": None, "present": present}
    (split,) = complete([official_fold(["train"] * 32 + ["test"] * 8)], **kept)
    assert present[split.train].any()
    assert present[split.inner].any()
