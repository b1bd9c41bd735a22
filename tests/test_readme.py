"""README.md and docs/study.md say what the project is now: its tree, its entries, its keys."""

from bench.study.schema import Augment, Study
from tests.readme import README, ROOT, written

# Written by a run, not by a user.
RESOLVED = {"resolved"}


def test_the_made_parts_are_up_to_date():
    """If not: `python -m tests.readme`."""
    text = README.read_text(encoding="utf-8")
    assert text == written(text)


def test_every_key_of_a_study_is_documented():
    page = (ROOT / "docs" / "study.md").read_text(encoding="utf-8")
    keys = [*Study.model_fields.keys() - RESOLVED, *Augment.model_fields]
    assert [key for key in keys if f"`{key}`" not in page] == []
