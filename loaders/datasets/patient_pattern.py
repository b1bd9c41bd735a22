"""The patient whose a case is, where its name alone tells it."""

import re

from loaders.cases import BadSource


def patient_in(name: str, pattern: str, option: str) -> str:
    """Return the first group of a regular expression in a name; raises BadSource.

    Where one name has no patient the pattern is not understood, and nothing is guessed.
    """
    try:
        match = re.search(pattern, name)
        patient = match[1] if match else None
    except (re.error, IndexError) as error:
        raise BadSource(
            f"option {option}: {pattern!r} is no pattern with a group ({error})"
        ) from None
    if not patient:
        raise BadSource(f"option {option}: {pattern!r} finds no patient in {name}")
    return patient
