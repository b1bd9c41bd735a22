"""README.md says what the project is now: its tree and its entries."""

from tests.readme import README, written


def test_the_made_parts_are_up_to_date():
    """If not: `python -m tests.readme`."""
    text = README.read_text(encoding="utf-8")
    assert text == written(text)
