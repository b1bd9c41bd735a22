"""Patient id extracted from a case name."""

import re

from loaders.cases import BadSource
from loaders.formats.missing_words import missing


def patient_in(name: str, pattern: str, option: str) -> str:
    """Return the first group of a regular expression in a name; raises BadSource.

    A name in which the pattern finds no patient is an error, and so is "unknown" or "NA" for one:
    cases whose patient is unknown must not become one large group.
    """
    try:
        match = re.search(pattern, name)
        patient = match[1] if match else None
    except (re.error, IndexError) as error:
        raise BadSource(
            f"option {option}: {pattern!r} is no pattern with a group ({error})"
        ) from None
    if not patient or missing(patient):
        raise BadSource(f"option {option}: {pattern!r} finds no patient in {name}")
    return patient
