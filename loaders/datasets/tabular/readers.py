"""One answer for a picture that has several rows, one for each of its readers or boxes.

A row may be one reader's answer (VinDr-CXR: three readers per picture, `rad_id`) or one box that a
reader drew (RSNA's pneumonia challenge: x, y, width, height; VinDr: x_min to y_max). The rows of
one reader are merged first: the answer is positive if any of them is. The readers' answers are then
combined by the user's rule: `majority` takes the answer of more than half of them, `any` is
positive if at least one reader's is, `all` only if every reader's is. Numbers are not votes: the
`mean` or the `median` of the rows is taken.
"""

import statistics
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

from loaders.cases import Label

# The columns that identify a table of boxes, in lower case: RSNA's stage_2_train_labels.csv,
# VinDr-CXR's train.csv and annotations_train.csv, VinDr-Mammo's finding_annotations.csv, and NIH's
# BBox_List_2017.csv, whose single header `Bbox [x,y,w,h]` splits into four.
_BOXES = (
    {"x", "y", "width", "height"},
    {"x_min", "y_min", "x_max", "y_max"},
    {"xmin", "ymin", "xmax", "ymax"},
    {"bbox [x", "y", "w", "h]"},
)
# The default column of the reader: VinDr-CXR's.
READER = "rad_id"
# The scale of single readers' answers among a case's ratings.
ANSWER = "answer"


def has_boxes(columns: Iterable[str]) -> bool:
    """Tell from a table's column names whether each row is a box."""
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


class SeveralClasses(ValueError):  # noqa: N818  # describes a reader's answer, not an error of the run
    """One reader gives a picture several classes out of more than two."""


def one_answer(
    rows: Sequence[tuple[str | None, Label]], positive: int | None, rule: str
) -> Label | None:
    """Return the answer that a rule gives for the rows (reader, answer) of a picture; None: none.

    Without a rule, a number must be the same in all rows. Each of several findings is decided
    separately, by the readers who answer it; one that `majority` leaves undecided is missing.
    Raises SeveralClasses.
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


# Name -> (readers' answers, the positive of two classes) -> the picture's answer, None: undecided.
# The empty name means that no rule was chosen.
RULES: Mapping[str, Callable[[Sequence[int], int | None], int | None]] = {
    "": _unanimous,
    "majority": _majority,
    "any": _any,
    "all": _all,
}
# The rules for numbers.
OF_NUMBERS: Mapping[str, Callable[[Sequence[float]], float]] = {
    "mean": statistics.fmean,
    "median": statistics.median,
}
# The rules that need the positive one of two classes.
ONE_SIDED: Collection[str] = ("any", "all")
