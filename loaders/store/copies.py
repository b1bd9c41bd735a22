"""Copies within a data set: the same image twice, and images that look like lossy copies.

Images are the same if their decoded, reoriented and scaled values are, whatever their files, names
and answers. Patients who share an image are one group. A constant image does not identify a
patient, so it is not a copy of another.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from loaders.store.perceptual_hash import BITS, near_pairs

# What is done with an image that has two answers: its cases are kept in one group, or all rejected.
Conflicts: TypeAlias = Literal["keep", "reject"]
CONFLICTS: tuple[Conflicts, ...] = ("keep", "reject")

NEAR_COPIES = pa.schema(
    [pa.field(name, pa.string(), nullable=False) for name in ("case_id", "other_id")]
)

# A group with more than this share of the cases causes a warning: it can only be in one fold, and
# may be many patients under one name (assumption).
LARGE = 0.05
# In a set of few patients, each has a large share; so a group that no copies joined causes a
# warning only if it has more than this many times its even share (assumption).
_UNEVEN = 2
# The most names in a sentence.
_SHOWN = 3


@dataclass(frozen=True, kw_only=True)
class Copies:
    """The result of a search: the rows that stay, why others are rejected, and warnings.

    `table` has the columns `group_id` (one id for groups that share an image) and
    `source_group_id`, and lacks the rows of `rejected`, (case id, reason). `near` lists pairs of
    cases of different groups that look like lossy copies (NEAR_COPIES). `warnings` are sentences
    that name cases and groups by their pseudonyms.
    """

    table: pa.Table
    rejected: list[tuple[str, str]]
    near: pa.Table
    warnings: list[str]


def find_copies(table: pa.Table, conflicts: Conflicts) -> Copies:
    """Look for copies among the cases of a store.

    `table` has the columns case_id, group_id, image_id (null: a constant image), answer and look
    (a perceptual hash, null if image_id is).
    """
    clashing = _clashes(table)
    rejected: list[tuple[str, str]] = []
    warnings: list[str] = []
    if clashing and conflicts == "reject":
        rejected = [
            (one, f"the same image has another answer in {_named('case', set(same) - {one})}")
            for same in clashing
            for one in same
        ]
        gone = {one for one, _ in rejected}
        kept = [case not in gone for case in table["case_id"].to_pylist()]
        table = table.filter(pa.array(kept, pa.bool_()))
    elif clashing:
        warnings.append(
            f"{_count(len(clashing), 'image', 'has', 'have')} several answers, of which at most "
            f"one is right: {_named('case', clashing[0])}{_more(len(clashing) - 1, 'image')}. All "
            f"cases of such an image are kept, in one group; `--conflicts reject` leaves them out."
        )
    groups = table["group_id"].to_pylist()
    number = merged_groups(groups, table["image_id"].to_pylist())
    names = _names(groups, number)
    warnings += _joined(groups, names)
    warnings += _large(groups, names)
    near = _near(table, number)
    if len(near):
        first = near.slice(0, _SHOWN).to_pylist()
        pairs = "; ".join(f"{pair['case_id']} and {pair['other_id']}" for pair in first)
        warnings.append(
            f"{_count(len(near), 'pair')} of cases in different groups may be lossy copies of each "
            f"other (perceptual hash), which folds do not keep together: {pairs}"
            f"{_more(len(near) - len(first), 'pair')}; all are in near_copies.parquet. If they "
            f"belong to one patient, name the patient in the source."
        )
    at = table.schema.get_field_index("group_id")
    field = table.schema.field(at)
    table = table.set_column(at, field, pa.array(names, pa.string()))
    table = table.append_column(field.with_name("source_group_id"), pa.array(groups, pa.string()))
    return Copies(table=table, rejected=rejected, near=near, warnings=warnings)


def merged_groups(groups: Sequence[str], images: Sequence[str | None]) -> NDArray[np.int64]:
    """Return a number (n,) for each group, one number for groups that share an image.

    `images` (n,) are equal if the images are, None for an image that joins nothing.
    """
    group = np.unique(np.asarray(groups), return_inverse=True)[1]
    known = np.array([image is not None for image in images], dtype=bool)
    image = np.zeros(len(groups), dtype=np.int64)
    image[known] = np.unique([i for i in images if i is not None], return_inverse=True)[1]
    n = len(groups)
    # Groups and images are nodes, cases are edges.
    ends = group[known], n + image[known]
    links = coo_array((np.ones(len(ends[0])), ends), shape=(2 * n, 2 * n))
    component = connected_components(links, directed=False)[1]
    merged: NDArray[np.int64] = np.asarray(component, dtype=np.int64)[group]
    return merged


def _clashes(table: pa.Table) -> list[list[str]]:
    """Return the cases of each image that has several answers, in order of their ids."""
    cases: dict[str, list[str]] = {}
    answers: dict[str, set[str]] = {}
    columns = (table[name].to_pylist() for name in ("case_id", "image_id", "answer"))
    for case, image, answer in zip(*columns, strict=True):
        if image is not None:
            cases.setdefault(image, []).append(case)
            answers.setdefault(image, set()).add(answer)
    return sorted(sorted(cases[image]) for image, found in answers.items() if len(found) > 1)


def _names(groups: Sequence[str], number: NDArray[np.int64]) -> list[str]:
    """Return the name of each case's merged group: the smallest of the joined names."""
    least: dict[int, str] = {}
    for group, one in zip(groups, number.tolist(), strict=True):
        least[one] = min(group, least.get(one, group))
    return [least[one] for one in number.tolist()]


def _joined(groups: Sequence[str], names: Sequence[str]) -> list[str]:
    before, after = len(set(groups)), len(set(names))
    if before == after:
        return []
    sentence = (
        f"{before} groups became {after}: some share an image, so they are kept on one side of "
        f"every split (source_group_id in cases.parquet has the original groups)."
    )
    return [sentence]


def _large(groups: Sequence[str], names: Sequence[str]) -> list[str]:
    """Return the sentence on groups with a large share of the cases, if there are any."""
    sizes: dict[str, int] = {}
    members: dict[str, set[str]] = {}
    for group, name in zip(groups, names, strict=True):
        sizes[name] = sizes.get(name, 0) + 1
        members.setdefault(name, set()).add(group)
    uneven = _UNEVEN / max(len(sizes), 1)
    large = [
        name
        for name, size in sorted(sizes.items(), key=lambda found: (-found[1], found[0]))
        if size > LARGE * len(groups) and (len(members[name]) > 1 or size > uneven * len(groups))
    ]
    if not large:
        return []
    first = large[0]
    many = len(members[first])
    joined = f", {many} groups of the source that share images" if many > 1 else ""
    sentence = (
        f"{_count(len(large), 'group', 'holds', 'hold each')} more than {LARGE:.0%} of the cases; "
        f"group {first} has {sizes[first]} of {len(groups)}{joined}. A group is never split, so "
        f"folds may be uneven; check that it is one patient."
    )
    return [sentence]


def _near(table: pa.Table, number: NDArray[np.int64]) -> pa.Table:
    looks = table["look"].to_pylist()
    rows = np.flatnonzero([look is not None for look in looks])
    hashes = np.frombuffer(b"".join(looks[row] for row in rows), np.uint8).reshape(
        len(rows), BITS // 8
    )
    pairs = rows[near_pairs(hashes, number[rows])]
    ids = np.asarray(table["case_id"].to_pylist(), dtype=object)
    named = sorted(sorted(pair) for pair in ids[pairs].tolist())
    return pa.table(
        [pa.array([pair[side] for pair in named], pa.string()) for side in (0, 1)],
        schema=NEAR_COPIES,
    )


def _named(what: str, ids: Sequence[str] | set[str]) -> str:
    """Return "case a, case b and 3 more"."""
    found = sorted(ids)
    shown = ", ".join(f"{what} {one}" for one in found[:_SHOWN])
    return shown + (f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else "")


def _more(count: int, what: str) -> str:
    return f", and {_count(count, f'more {what}')}" if count > 0 else ""


def _count(number: int, what: str, *verb: str) -> str:
    """Return "1 image", "2 images"; with the verb's two forms "1 image has", "2 images have"."""
    said = f"{number} {what}{'' if number == 1 else 's'}"
    return " ".join([said, *(verb and [verb[number != 1]])])
