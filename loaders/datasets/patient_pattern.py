"""Patient id extracted from a case name."""

import re

from loaders.cases import BadSource


def patient_in(name: str, pattern: str, option: str) -> str:
    """Return the first group of a regular expression in a name; raises BadSource.

    A name without a patient is an error: nothing is guessed.
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
