"""README.md and docs/study.md say what the project is now: its tree, its entries, its keys."""

from bench.catalogue import TABLES
from bench.study.axes import STUDY_AXES
from bench.study.schema import Augment, DataEntry, Study
from tests.readme import README, ROOT, written

# Written by a run, not by a user.
RESOLVED = {"resolved"}
FILLED_IN = {"content", "n_folds", "deviation", "speed"}
# What `medopt list` shows that a study does not name.
UNNAMED = {"data"}


def test_the_made_parts_are_up_to_date():
    """If not: `python -m tests.readme`."""
    text = README.read_text(encoding="utf-8")
    assert text == written(text)


def test_every_key_of_a_study_is_documented():
    page = (ROOT / "docs" / "study.md").read_text(encoding="utf-8")
    keys = [*Study.model_fields.keys() - RESOLVED, *Augment.model_fields]
    assert [key for key in keys if f"`{key}`" not in page] == []


def test_every_field_of_a_data_entry_is_documented():
    page = (ROOT / "docs" / "study.md").read_text(encoding="utf-8")
    section = page.split("### Entries of `data`")[1].split("###")[0]
    fields = DataEntry.model_fields.keys() - FILLED_IN
    assert [field for field in fields if f"`{field}`" not in section] == []


def test_every_kind_of_entry_is_in_the_list_of_kinds():
    page = (ROOT / "docs" / "study.md").read_text(encoding="utf-8")
    (said,) = [part for part in page.split("\n\n") if part.startswith("`medopt list models`")]
    assert [kind for kind in TABLES if kind not in UNNAMED and kind not in said] == []


def test_the_table_of_axes_has_every_axis_of_a_study():
    text = README.read_text(encoding="utf-8")
    axes = [axis for axis in STUDY_AXES if f"| `{axis}` |" not in text]
    assert axes == []
