"""What each axis of a study offers: a table of entries, and what they do. One row each.

The names, columns and plain entries stand in `results.tables.axes` under the same keys. An entry
of an axis whose rows have `changes` sets something in other parts of a combination (a setting of
the model, optimizer or loss, the augmentation, a field of the trial), as a regularizer does: a new
axis of that kind needs a row there, one here and the file of its table.
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
    """What an axis is to a study.

    - `what`: what one entry is called in messages; `about`: a few words for those who write one.
    - `check(entry)` raises ValueError where an entry cannot be.
    - `changes`: the rows that set something in other parts; None where they are parts themselves.
    - `single`: one entry may stand without a list.
    """

    what: str
    about: str | None = None
    check: Callable[[Choice], None]
    changes: Mapping[str, Regularizer] | None = None
    single: bool = False


@dataclass(frozen=True)
class _Settable:
    """A model as `check_entry` asks for it: models know no settings of ours."""

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
    """Check what is set for weights; whether they are there is seen when a study is resolved."""
    start_settings(entry.params)


STUDY_AXES: dict[str, StudyAxis] = {
    "models": StudyAxis(what="model", check=_rows("model", _MODELS, references=True)),
    "optimizers": StudyAxis(
        what="optimizer", check=_rows("optimizer", OPTIMIZERS, references=True)
    ),
    "losses": StudyAxis(what="loss", check=_rows("loss", LOSSES, references=True)),
    "schedules": StudyAxis(
        what="schedule", about="of the learning rate", check=_rows("schedule", SCHEDULES)
    ),
    "regularizers": StudyAxis(
        what="regularizer",
        about="none: early stopping alone",
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
        about="none, or with_clinical: the columns that the store keeps beside the image",
        check=_rows("clinical", CLINICAL),
        changes=CLINICAL,
        single=True,
    ),
    "labels": StudyAxis(
        what="labels",
        about="what the training part is taught: as_given, flipped, or what its readers said",
        check=_rows("labels", LABELS),
        changes=LABELS,
        single=True,
    ),
}
