"""One answer for a picture that has several rows, one for each of its readers or boxes.

A row may be one reader's answer (VinDr-CXR: three readers a picture, `rad_id`) or one box that a
reader drew (RSNA's pneumonia challenge: x, y, width, height; VinDr: x_min to y_max). The rows of
one reader are merged first: the answer is positive if any of them is. The readers' answers are then
combined by the rule that the user chose: `majority` takes the answer of more than half of them,
`any` is positive if at least one reader is, `all` only if every reader is. Numbers, which are no
votes, come to the `mean` or the `median` of the rows.
"""

import statistics
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

from loaders.cases import Label

# The columns by which a table of boxes is known, in lower case: RSNA's stage_2_train_labels.csv,
# VinDr-CXR's train.csv and annotations_train.csv, VinDr-Mammo's finding_annotations.csv, and NIH's
# BBox_List_2017.csv, whose one header `Bbox [x,y,w,h]` falls into four.
_BOXES = (
    {"x", "y", "width", "height"},
    {"x_min", "y_min", "x_max", "y_max"},
    {"xmin", "ymin", "xmax", "ymax"},
    {"bbox [x", "y", "w", "h]"},
)
# The column of the reader where none is named: VinDr-CXR's.
READER = "rad_id"
# What the answers of single readers are called among a case's ratings.
ANSWER = "answer"


def has_boxes(columns: Iterable[str]) -> bool:
    """Tell from the names of its columns whether each row of a table is a box."""
    names = {column.casefold() for column in columns}
    return any(box <= names for box in _BOXES)


def answers(rows: Iterable[tuple[str | None, int]], positive: int | None) -> list[int | None]:
    """Return each reader's answer from the rows (reader, class) of one picture.

    It is None for a reader who gives several classes where there are more than two.
    """
    by_reader: dict[str | None, set[int]] = defaultdict(set)
    for reader, label in rows:
        by_reader[reader].add(label)
    return [next(iter(labels)) if len(labels) == 1 else positive for labels in by_reader.values()]


class SeveralClasses(ValueError):  # noqa: N818  # what a reader gives; no error of the run
    """One reader gives a picture several classes out of more than two."""


def one_answer(
    rows: Sequence[tuple[str | None, Label]], positive: int | None, rule: str
) -> Label | None:
    """Return what the rows (reader, answer) of one picture come to by a rule; None: undecided.

    A number must be the same in all where no rule is said. Of several findings each is decided by
    itself, by those who answer it: one that the rule `majority` leaves undecided is missing. Raises
    SeveralClasses.
    """
    labels = [label for _, label in rows]
    if isinstance(labels[0], tuple) and len(labels[0]) == 1:
        if rule:
            numbers = [label[0] for label in labels if isinstance(label, tuple) and label]
            return (float(OF_NUMBERS[rule]([number for number in numbers if number is not None])),)
        return labels[0] if len(set(labels)) == 1 else None
    if not isinstance(labels[0], tuple):
        given = answers(((who, label) for who, label in rows if isinstance(label, int)), positive)
        told = [label for label in given if label is not None]
        if len(told) < len(given):
            raise SeveralClasses
        return RULES[rule](told, positive)
    found: list[float | None] = []
    for of_one in zip(*(label for label in labels if isinstance(label, tuple)), strict=True):
        known = [
            (who, int(value))
            for (who, _), value in zip(rows, of_one, strict=True)
            if value is not None
        ]
        given = answers(known, 1)
        decided = RULES[rule]([one for one in given if one is not None], 1) if given else None
        if given and decided is None and not rule:
            return None
        found.append(None if decided is None else float(decided))
    return tuple(found)


def _unanimous(given: Sequence[int], _positive: int | None) -> int | None:
    return given[0] if len(set(given)) == 1 else None


def _majority(given: Sequence[int], _positive: int | None) -> int | None:
    ((label, count),) = Counter(given).most_common(1)
    return label if 2 * count > len(given) else None


def _any(given: Sequence[int], positive: int | None) -> int | None:
    assert positive is not None
    return positive if positive in given else 1 - positive


def _all(given: Sequence[int], positive: int | None) -> int | None:
    assert positive is not None
    return positive if set(given) == {positive} else 1 - positive


# Name -> (the readers' answers, the positive of two classes) -> the picture's, None: undecided. The
# empty name is that nothing was asked for.
RULES: Mapping[str, Callable[[Sequence[int], int | None], int | None]] = {
    "": _unanimous,
    "majority": _majority,
    "any": _any,
    "all": _all,
}
# Those of numbers.
OF_NUMBERS: Mapping[str, Callable[[Sequence[float]], float]] = {
    "mean": statistics.fmean,
    "median": statistics.median,
}
# The rules that ask which of two classes is the positive one.
ONE_SIDED: Collection[str] = ("any", "all")
