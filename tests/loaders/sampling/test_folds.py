"""Folds: no patient on both sides, every class everywhere, nothing that depends on ids or order."""

import hashlib
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from sklearn.model_selection import StratifiedGroupKFold

from loaders.sampling.assign import MAX_SINGLES, bundled
from loaders.sampling.folds import (
    FoldError,
    Split,
    check_splits,
    make_splits,
    split_hash,
    splits_from_table,
    splits_table,
)

CLASSES = ("benign", "malignant")
QUICK = settings(max_examples=40, deadline=None)


class Cohort:
    """Cases of patients who come back: several images each, some with both classes."""

    def __init__(self, patients: int, *, seed: int = 0, visits: int = 4, classes: int = 2) -> None:
        generator = np.random.default_rng(seed)
        sizes = generator.integers(1, visits + 1, patients)
        self.groups = [f"patient {p}" for p, size in enumerate(sizes) for _ in range(size)]
        # A patient's images mostly share a class, so that a split by case would leak much.
        likely = generator.integers(0, classes, patients).repeat(sizes)
        other = generator.integers(0, classes, len(self.groups))
        self.labels = np.where(generator.random(len(self.groups)) < 0.9, likely, other)
        self.hashes = [
            hashlib.sha256(f"{seed} {i}".encode()).hexdigest() for i in range(sizes.sum())
        ]


def splits_of(cohort: Cohort, **changes: object) -> list[Split]:
    settings = {
        "labels": cohort.labels,
        "groups": cohort.groups,
        "hashes": cohort.hashes,
        "classes": [f"class {k}" for k in range(int(max(cohort.labels)) + 1)],
        "folds": 5,
        "repeats": 1,
        "seed": 0,
        "inner_fraction": 0.2,
    }
    return make_splits(**{**settings, **changes})  # type: ignore[arg-type]  # as make_splits has them


def patients(split: Split, part: str, groups: Sequence[str]) -> set[str]:
    return {groups[row] for row in getattr(split, part)}


def same(a: Sequence[Split], b: Sequence[Split]) -> bool:
    return len(a) == len(b) and all(
        (x.repeat, x.fold) == (y.repeat, y.fold)
        and all(np.array_equal(getattr(x, p), getattr(y, p)) for p in ("train", "inner", "test"))
        for x, y in zip(a, b, strict=True)
    )


# ---- what every split holds ----


@pytest.mark.parametrize("labelled", [True, False])
def test_no_patient_is_on_two_sides(labelled: bool) -> None:
    cohort = Cohort(60)
    assert len(set(cohort.groups)) < len(cohort.groups)
    splits = splits_of(cohort, repeats=3, **({} if labelled else {"labels": None}))
    assert len(splits) == 15
    for split in splits:
        train, inner, test = (patients(split, p, cohort.groups) for p in ("train", "inner", "test"))
        assert not train & test
        assert not inner & test
        assert not train & inner


def test_every_case_is_tested_once_a_repeat_and_is_in_one_part_of_each_split() -> None:
    cohort = Cohort(60)
    splits = splits_of(cohort, repeats=2)
    everything = list(range(len(cohort.groups)))
    for repeat in (0, 1):
        own = [s for s in splits if s.repeat == repeat]
        assert [s.fold for s in own] == [0, 1, 2, 3, 4]
        assert sorted(np.concatenate([s.test for s in own]).tolist()) == everything
    for split in splits:
        parts = np.concatenate([split.train, split.inner, split.test])
        assert sorted(parts.tolist()) == everything
        for part in (split.train, split.inner, split.test):
            assert part.dtype == np.int64
            assert (np.diff(part) > 0).all()


@given(
    patients=st.integers(8, 40),
    seed=st.integers(0, 10**6),
    folds=st.integers(2, 6),
    fraction=st.sampled_from([0.1, 0.2, 0.25, 1 / 3, 0.5]),
    classes=st.integers(1, 4),
)
@QUICK
def test_splits_hold_their_promises_or_say_why_not(
    patients: int, seed: int, folds: int, fraction: float, classes: int
) -> None:
    cohort = Cohort(patients, seed=seed, classes=classes)
    assume(len(set(cohort.labels.tolist())) == max(cohort.labels) + 1)
    try:
        splits = splits_of(cohort, folds=folds, seed=seed, inner_fraction=fraction)
    except FoldError:
        # Allowed where it is true: some class has too few patients for the parts.
        patients_of = [
            {g for g, y in zip(cohort.groups, cohort.labels, strict=True) if y == k}
            for k in range(classes)
        ]
        assert min(map(len, patients_of)) < max(folds, 4)
        return
    for split in splits:
        parts = {p: getattr(split, p) for p in ("train", "inner", "test")}
        members = [{cohort.groups[row] for row in rows} for rows in parts.values()]
        assert sum(map(len, members)) == len(set.union(*members)) == len(set(cohort.groups))
        for rows in parts.values():
            assert set(cohort.labels[rows].tolist()) == set(cohort.labels.tolist())


def test_classes_are_spread_evenly() -> None:
    cohort = Cohort(300, classes=3)
    share = np.bincount(cohort.labels) / len(cohort.labels)
    for split in splits_of(cohort):
        assert len(split.test) == pytest.approx(len(cohort.labels) / 5, rel=0.05)
        assert len(split.inner) == pytest.approx(0.2 * 0.8 * len(cohort.labels), rel=0.05)
        for rows in (split.train, split.inner, split.test):
            found = np.bincount(cohort.labels[rows], minlength=3) / len(rows)
            np.testing.assert_allclose(found, share, atol=0.02)


@pytest.mark.parametrize("fraction", [0.1, 0.15, 0.3, 0.4, 0.5])
def test_inner_validation_has_the_asked_share(fraction: float) -> None:
    cohort = Cohort(300)
    for split in splits_of(cohort, inner_fraction=fraction):
        share = len(split.inner) / (len(split.inner) + len(split.train))
        assert share == pytest.approx(fraction, abs=0.02)


# ---- segmented cases ----


def hashes_of(n: int) -> list[str]:
    return [hashlib.sha256(f"{i}".encode()).hexdigest() for i in range(n)]


@pytest.mark.parametrize("seed", range(5))
def test_a_rare_region_is_in_every_part_as_often_as_it_can_be(seed: int) -> None:
    """In 8 of 40 patients: of 5 test parts each holds 1 or 2, and every inner part one at least."""
    present = np.zeros((40, 2), dtype=bool)
    present[:, 0], present[:8, 1] = True, True
    splits = splits_of(
        Cohort(1),
        labels=None,
        present=present,
        groups=[f"p{i}" for i in range(40)],
        hashes=hashes_of(40),
        repeats=3,
        seed=seed,
    )
    assert len(splits) == 15
    for split in splits:
        held = [int(present[getattr(split, part), 1].sum()) for part in ("train", "inner", "test")]
        assert min(held) >= 1
        assert held[2] in (1, 2)


@pytest.mark.parametrize("groups", [2, 3])
def test_of_a_region_of_few_patients_one_is_left_to_learn_from(groups: int) -> None:
    present = np.zeros((40, 1), dtype=bool)
    present[:groups] = True
    splits = splits_of(
        Cohort(1),
        labels=None,
        present=present,
        groups=[f"p{i}" for i in range(40)],
        hashes=hashes_of(40),
    )
    for split in splits:
        assert present[split.train].any()
        assert present[split.test].sum() <= 1
        # Of two that are left one is inner validation.
        assert present[split.inner].sum() == min(1, groups - int(present[split.test].sum()) - 1)


@given(seed=st.integers(0, 10**6), folds=st.integers(2, 5))
@QUICK
def test_regions_that_are_too_rare_for_every_part_lie_apart(seed: int, folds: int) -> None:
    """Regions of any number of patients, several cases each: no refusal, no patient torn apart."""
    generator = np.random.default_rng(seed)
    groups = [f"p{p}" for p in range(24) for _ in range(generator.integers(1, 4))]
    of_patient = generator.random((24, 3)) < generator.random(3)
    numbers = np.array([int(group[1:]) for group in groups])
    present = of_patient[numbers]
    splits = splits_of(
        Cohort(1),
        labels=None,
        present=present,
        groups=groups,
        hashes=hashes_of(len(groups)),
        folds=folds,
    )
    check_splits(splits, groups, None)
    rarest = int(of_patient.sum(axis=0).argmin())
    tested = [len(set(numbers[s.test][present[s.test, rarest]].tolist())) for s in splits]
    # The rarest is in as many test parts as it can be.
    assert sum(n > 0 for n in tested) == min(folds, int(of_patient[:, rarest].sum()))


def test_where_all_cases_hold_all_regions_folds_are_those_without_regions() -> None:
    cohort = Cohort(50)
    present = np.ones((len(cohort.groups), 3), dtype=bool)
    assert same(
        splits_of(cohort, labels=None, present=present), splits_of(cohort, labels=None, repeats=1)
    )


# ---- on what they depend ----


def test_folds_depend_on_content_not_on_ids_or_row_order() -> None:
    cohort = Cohort(50)
    splits = splits_of(cohort, repeats=2)
    expected = [split_hash(split, cohort.hashes) for split in splits]
    generator = np.random.default_rng(5)
    for _ in range(5):
        order = generator.permutation(len(cohort.groups))
        renamed = {name: f"{generator.integers(2**60):x}" for name in sorted(set(cohort.groups))}
        other = splits_of(
            cohort,
            repeats=2,
            labels=cohort.labels[order],
            groups=[renamed[cohort.groups[row]] for row in order],
            hashes=[cohort.hashes[row] for row in order],
        )
        hashes = [cohort.hashes[row] for row in order]
        assert [split_hash(split, hashes) for split in other] == expected


def test_the_same_seed_gives_the_same_folds_and_another_seed_others() -> None:
    cohort = Cohort(50)
    assert same(splits_of(cohort), splits_of(cohort))
    assert not same(splits_of(cohort), splits_of(cohort, seed=1))


def test_repeats_split_anew_even_where_scikit_learn_would_not() -> None:
    """It orders groups by the spread of their classes: where all differ, a shuffle does nothing."""
    sizes = range(2, 14)
    groups = [f"p{p}" for p, size in enumerate(sizes) for _ in range(size)]
    labels = np.concatenate([[0] * (size - 1) + [1] for size in sizes])
    hashes = [f"{i:064x}" for i in range(len(groups))]

    def tests(seed: int) -> list[list[int]]:
        deal = StratifiedGroupKFold(3, shuffle=True, random_state=seed)
        return sorted(sorted(rows.tolist()) for _, rows in deal.split(labels, labels, groups))

    assert all(tests(seed) == tests(0) for seed in range(10))
    splits = make_splits(
        labels=labels,
        groups=groups,
        hashes=hashes,
        classes=CLASSES,
        folds=3,
        repeats=4,
        seed=0,
        inner_fraction=0.25,
    )
    partitions = {
        frozenset(frozenset(s.test.tolist()) for s in splits if s.repeat == repeat)
        for repeat in range(4)
    }
    assert len(partitions) == 4


def test_the_hash_of_a_split_tells_parts_apart() -> None:
    cohort = Cohort(30)
    split = splits_of(cohort, folds=3)[0]
    swapped = replace(split, inner=split.test, test=split.inner)
    moved = replace(split, train=split.train[1:], inner=np.sort([*split.inner, split.train[0]]))
    found = {split_hash(s, cohort.hashes) for s in (split, swapped, moved)}
    assert len(found) == 3


def test_very_many_single_cases_are_dealt_out_in_bundles_and_as_evenly() -> None:
    """Beside groups whose members stay together."""
    n = 10 * MAX_SINGLES
    generator = np.random.default_rng(0)
    labels = generator.choice(3, n, p=[0.7, 0.29, 0.01])
    groups = [f"family {i % 50}" if i < 500 else f"one {i}" for i in range(n)]
    hashes = [f"{i * 7919 % n:064x}" for i in range(n)]
    numbers = np.unique(groups, return_inverse=True)[1]
    bundles = np.unique(bundled(labels, numbers, generator))
    assert len(bundles) <= 50 + MAX_SINGLES + 3
    splits = make_splits(
        labels=labels,
        groups=groups,
        hashes=hashes,
        classes=["a", "b", "c"],
        folds=5,
        repeats=1,
        seed=0,
        inner_fraction=0.2,
    )
    check_splits(splits, groups, labels)
    for split in splits:
        counts = np.bincount(labels[split.test])
        np.testing.assert_allclose(counts, np.bincount(labels) / 5, rtol=0.05)


# ---- what cannot be had ----


def test_a_class_with_too_few_patients_is_named_with_counts_and_advice() -> None:
    cohort = Cohort(30)
    rare = np.zeros_like(cohort.labels)
    rows = [i for i, group in enumerate(cohort.groups) if group in ("patient 1", "patient 2")]
    rare[rows] = 1
    with pytest.raises(FoldError) as error:
        splits_of(cohort, labels=rare, classes=CLASSES)
    message = str(error.value)
    assert f"class 'malignant' has {len(rows)} cases in 2 groups" in message
    assert "too few for 5 folds" in message
    assert "use at most 2 folds, or merge the class with another" in message


def test_a_class_that_never_occurs_is_named() -> None:
    cohort = Cohort(30)
    with pytest.raises(FoldError, match="class 'absent' has 0 cases in 0 groups"):
        splits_of(cohort, classes=("class 0", "class 1", "absent"))


def test_too_few_patients_without_classes() -> None:
    with pytest.raises(FoldError, match="the data set has 3 cases in 3 groups, too few for 5"):
        splits_of(Cohort(30), labels=None, groups=["a", "b", "c"], hashes=["1", "2", "3"])


def test_a_class_that_no_inner_validation_can_have_is_named() -> None:
    """Two patients in two folds: each training part has one of them."""
    groups = [f"p{i}" for i in range(12)]
    labels = np.array([1, 1] + [0] * 10)
    with pytest.raises(
        FoldError, match=r"fold \d cannot give up .* 'malignant' has 1 cases in 1 gr"
    ):
        splits_of(
            Cohort(30),
            groups=groups,
            labels=labels,
            hashes=[f"{i:02d}" for i in range(12)],
            classes=CLASSES,
            folds=2,
        )


def test_too_many_repeats_for_few_patients_is_said() -> None:
    groups, hashes = ["a", "b", "c", "d"], ["1", "2", "3", "4"]
    with pytest.raises(FoldError, match="use fewer repeats"):
        splits_of(Cohort(30), labels=None, groups=groups, hashes=hashes, folds=2, repeats=20)


def test_the_labels_of_a_segmentation_set_are_no_classes() -> None:
    cohort = Cohort(30)
    with pytest.raises(FoldError, match="labels run from -1 to -1; there are 2 classes"):
        splits_of(cohort, labels=np.full(len(cohort.groups), -1))


@pytest.mark.parametrize(
    "bad", [{"folds": 1}, {"repeats": 0}, {"inner_fraction": 0.0}, {"inner_fraction": 1.0}]
)
def test_numbers_that_make_no_folds(bad: dict[str, float]) -> None:
    with pytest.raises(FoldError, match="at least 2 folds"):
        splits_of(Cohort(30), **bad)


@pytest.mark.parametrize(
    "counts",
    [
        [[0, 2], [0, 3], [1, 0], [1, 1], [1, 0]],
        [[0, 1], [3, 0], [1, 3], [1, 1]],
        [[4, 0], [3, 2], [0, 5], [4, 5], [0, 2]],
    ],
)
def test_a_class_that_scikit_learn_leaves_out_is_found_a_place(counts: list[list[int]]) -> None:
    """Cases of each class that each patient has; three folds can have both, if not greedily."""
    groups = [f"p{p}" for p, own in enumerate(counts) for _ in range(sum(own))]
    labels = np.concatenate([np.repeat([0, 1], own) for own in counts])
    for seed in range(20):
        deal = StratifiedGroupKFold(3, shuffle=True, random_state=seed)
        tests = [set(labels[rows].tolist()) for _, rows in deal.split(labels, labels, groups)]
        assert {0, 1} != set.intersection(*tests)
    splits = splits_of(
        Cohort(30),
        labels=labels,
        groups=groups,
        hashes=[f"{i:02d}" for i in range(len(groups))],
        folds=3,
        classes=CLASSES,
    )
    for split in splits:
        for rows in (split.train, split.inner, split.test):
            assert set(labels[rows].tolist()) == {0, 1}


# ---- splits that come from elsewhere ----


def broken(kind: str, splits: list[Split], cohort: Cohort) -> list[Split]:
    first, rest = splits[0], splits[1:]
    nothing = first.test[:0]
    in_two = max(first.train, key=lambda row: cohort.groups.count(cohort.groups[row]))
    ill = first.train[cohort.labels[first.train] == 1]
    change = {
        "empty": {"inner": nothing, "train": np.sort([*first.train, *first.inner])},
        "twice": {"inner": np.sort([*first.inner, first.train[0]])},
        "lost": {"train": first.train[1:]},
        "patient": {
            "train": first.train[first.train != in_two],
            "inner": np.sort([*first.inner, in_two]),
        },
        "class": {
            "train": np.setdiff1d(first.train, ill),
            "inner": np.sort([*first.inner, *ill]),
        },
        "tested twice": {"train": rest[0].train, "inner": rest[0].inner, "test": rest[0].test},
    }[kind]
    return [replace(first, **change), *rest]


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("empty", "repeat 0 fold 0: the inner part is empty"),
        ("twice", "exactly once"),
        ("lost", "exactly once"),
        ("patient", "1 groups have cases in train and in inner"),
        ("class", r"fold 0: class 'class 1' has 0 cases in the train part and \d+ in all"),
        ("tested twice", "repeat 0: its folds do not test each case exactly once"),
    ],
)
def test_broken_splits_are_refused(kind: str, message: str) -> None:
    cohort = Cohort(60)
    if kind == "class":
        # One patient an image: else the move would break the groups first.
        cohort.groups = [f"patient {i}" for i in range(len(cohort.groups))]
    splits = splits_of(cohort)
    classes = ("class 0", "class 1")
    check_splits(splits, cohort.groups, cohort.labels, classes)
    with pytest.raises(FoldError, match=message):
        check_splits(broken(kind, splits, cohort), cohort.groups, cohort.labels, classes)


def test_saved_folds_come_back(tmp_path: object) -> None:
    cohort = Cohort(40)
    ids = [f"case {i}" for i in range(len(cohort.groups))]
    splits = splits_of(cohort, folds=3, repeats=2)
    table = splits_table(splits, ids, cohort.groups)
    assert table.schema.names == ["repeat", "fold", "part", "case_id", "group_id"]
    assert len(table) == 6 * len(ids)
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    loaded = splits_from_table(pq.read_table(pa.BufferReader(sink.getvalue())), ids)
    assert same(loaded, splits)
    row = table.slice(0, 1).to_pylist()[0]
    assert row["group_id"] == cohort.groups[ids.index(row["case_id"])]


def test_saved_folds_are_found_again_in_a_store_of_other_order() -> None:
    cohort = Cohort(40)
    ids = [f"case {i}" for i in range(len(cohort.groups))]
    splits = splits_of(cohort, folds=3)
    table = splits_table(splits, ids, cohort.groups)
    loaded = splits_from_table(table, ids[::-1])
    for one, other in zip(splits, loaded, strict=True):
        assert {ids[row] for row in one.test} == {ids[::-1][row] for row in other.test}


def test_saved_folds_of_other_cases_are_refused() -> None:
    cohort = Cohort(30)
    ids = [f"case {i}" for i in range(len(cohort.groups))]
    table = splits_table(splits_of(cohort, folds=3), ids, cohort.groups)
    with pytest.raises(FoldError, match="a case that the store does not have"):
        splits_from_table(table, ids[1:])
    loaded = splits_from_table(table, [*ids, "a new case"])
    with pytest.raises(FoldError, match="exactly once"):
        check_splits(loaded, [*cohort.groups, "a new patient"], None)
    renamed = table.set_column(2, "part", pa.array(["training"] * len(table)))
    with pytest.raises(FoldError, match="it must be train, inner, test"):
        splits_from_table(renamed, ids)
