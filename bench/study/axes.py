"""What each axis of a study offers: a table of entries, and what they do. One row for each axis.

The names, columns and plain entries are in `results.tables.axes` under the same keys. If an axis
has `changes`, its entries set something in other parts of a combination (a setting of the model,
optimizer or loss, the augmentation, a field of the trial), as a regularizer does. A new axis of
that kind needs a row there, one here, and the file of its table.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from bench.core.settings import Setting, merge
from bench.losses.table import LOSSES
from bench.optimizers.schedules import SCHEDULES
from bench.optimizers.table import OPTIMIZERS
from bench.study.choice import Choice, check_entry
from bench.study.pretrained import start_settings
from bench.study.regularizers import REGULARIZERS, Regularizer
from bench.study.setters.clinical import CLINICAL
from bench.study.setters.labels import LABELS
from models.table import MODELS


@dataclass(frozen=True, kw_only=True)
class StudyAxis:
    """One axis of a study.

    - `what`: the word for an entry in messages; `about`: a few words for those who write one.
    - `check(entry)` raises ValueError if an entry is invalid.
    - `changes`: the rows that set something in other parts; None if entries are parts themselves.
    - `single`: one entry may be given without a list.
    """

    what: str
    about: str | None = None
    check: Callable[[Choice], None]
    changes: Mapping[str, Regularizer] | None = None
    single: bool = False


@dataclass(frozen=True)
class _Settable:
    """A model in the form that `check_entry` takes: rows of models have no such method."""

    name: str
    defaults: Mapping[str, Setting]

    def settings(self, given: Mapping[str, Any]) -> dict[str, Setting]:
        return merge(f"model {self.name}", self.defaults, given)


_MODELS = {name: _Settable(name, row.settings) for name, row in MODELS.items()}


def _rows(
    what: str, table: Mapping[str, Any], *, references: bool = False
) -> Callable[[Choice], None]:
    def check(entry: Choice) -> None:
        check_entry(what, entry, table, references=references)

    return check


def _places(entry: Choice) -> None:
    """Check the settings of weights; whether they exist is checked when a study is resolved."""
    start_settings(entry.params)


STUDY_AXES: dict[str, StudyAxis] = {
    "models": StudyAxis(what="model", check=_rows("model", _MODELS, references=True)),
    "optimizers": StudyAxis(
        what="optimizer", check=_rows("optimizer", OPTIMIZERS, references=True)
    ),
    "losses": StudyAxis(what="loss", check=_rows("loss", LOSSES, references=True)),
    "schedules": StudyAxis(
        what="schedule", about="schedule of the learning rate", check=_rows("schedule", SCHEDULES)
    ),
    "regularizers": StudyAxis(
        what="regularizer",
        about="none: only early stopping",
        check=_rows("regularizer", REGULARIZERS),
        changes=REGULARIZERS,
    ),
    "pretrained": StudyAxis(
        what="pretrained weights",
        about="weights to start from: none, imagenet, a file of weights, or a run's folder",
        check=_places,
        single=True,
    ),
    "clinical": StudyAxis(
        what="clinical",
        about="none, or with_clinical: the network also sees the clinical columns of the store",
        check=_rows("clinical", CLINICAL),
        changes=CLINICAL,
        single=True,
    ),
    "labels": StudyAxis(
        what="labels",
        about="answers to train on: as_given, flipped, or those of the readers",
        check=_rows("labels", LABELS),
        changes=LABELS,
        single=True,
    ),
}
