"""Patient id extracted from a case name."""

import re

from loaders.cases import BadSource
from loaders.formats.missing_words import missing


def patient_in(name: str, pattern: str, option: str) -> str:
    """Return the first group of a regular expression in a name; raises BadSource.

    A name without a match is an error, and so is a patient called "unknown" or "NA": cases of
    unknown patients must not become one large group.
    """
    try:
        match = re.search(pattern, name)
        patient = match[1] if match else None
    except (re.error, IndexError) as error:
        raise BadSource(
            f"option {option}: {pattern!r} is not a regular expression with a group ({error})"
        ) from None
    if not patient or missing(patient):
        raise BadSource(f"option {option}: {pattern!r} finds no patient in {name}")
    return patient
