"""Clinical columns of a table (age, sex, ...) as numbers, and the columns that may not be kept.

A column whose values are all numbers is numeric; any other is a category, its words numbered in
alphabetical order. A column that may identify somebody is refused: by its name, if it holds dates,
if it has more different words than a category, or if its whole numbers differ in every case. Ages
above 89 are kept as 90, as the U.S. rule for de-identified data asks (45 CFR 164.514(b)(2)(i)(C)).
"""

import math
import re
from collections.abc import Mapping, Sequence

from loaders.cases import BadSource
from loaders.formats.missing_words import missing

# Words in a column's name for identities and dates: 45 CFR 164.514(b)(2)(i) lists names, places,
# dates, telephone and account numbers, addresses, certificates, devices and codes.
_WHO = frozenset(
    (
        *("name", "names", "surname", "forename", "firstname", "lastname", "patientname"),
        *("initials", "id", "ids", "uid", "guid", "mrn", "ssn", "patientid", "caseid", "studyid"),
        *("accession", "record", "address", "street", "city", "county", "zip", "zipcode"),
        *("postcode", "postal", "phone", "telephone", "fax", "mobile", "email", "mail", "url"),
        *("ip", "birth", "birthday", "birthdate", "dob", "dod", "date", "dates", "time"),
        *("timestamp", "datetime", "born", "death", "deceased", "admission", "discharge"),
        *("account", "insurance", "licence", "license", "passport", "serial", "device"),
        *("operator", "physician", "doctor", "radiologist"),
    )
)
_DATE = re.compile(
    r"\d{4}[-./]\d{1,2}[-./]\d{1,2}.*|\d{1,2}[-./]\d{1,2}[-./](\d{4}|\d{2})|(19|20)\d{6}"
)
# More words, or longer ones, are names or places rather than categories (assumptions).
_MOST_WORDS, _LONGEST = 20, 40
# Whole numbers that differ in at least this many cases, and in all, are ids (assumption).
_FEW = 50
_OLDEST = 90


def refuse_names(columns: Sequence[str]) -> None:
    """Raise BadSource if the name of a column suggests an identity or a date."""
    for column in columns:
        parts = re.sub(r"([a-z])([A-Z])", r"\1 \2", column)
        words = [word for word in re.split(r"[\W_]+", parts.casefold()) if word]
        told = [word for word in (*words, "".join(words)) if word in _WHO]
        if told:
            raise BadSource(
                f"option clinical: column {column!r} may identify somebody ({told[0]}): a store "
                "keeps ages, sexes, measurements and the like, never names, ids or dates"
            )


def numbered(
    where: str, columns: Mapping[str, Sequence[str]]
) -> tuple[dict[str, list[float]], dict[str, list[str]]]:
    """Return each column as numbers, nan where missing, and the words of each categorical column.

    `columns` maps a name to the text of each case; `where` begins the messages: which table.
    Raises BadSource for a column that may identify somebody or has no values.
    """
    found: dict[str, list[float]] = {}
    words: dict[str, list[str]] = {}
    for name, texts in columns.items():
        told = f"{where}: column {name!r} of option clinical"
        known = [text for text in texts if missing(text) is None]
        if not known:
            raise BadSource(f"{told} has no value")
        if dated := next((text for text in known if _DATE.fullmatch(text)), None):
            raise BadSource(f"{told} holds dates, such as {_shape(dated)}: give ages or durations")
        if all(_number(text) is not None for text in known):
            found[name] = [_value(name, text) for text in texts]
            values = [value for value in found[name] if not math.isnan(value)]
            if len(values) >= _FEW and len(set(values)) == len(values) and _whole(values):
                raise BadSource(
                    f"{told} has a different whole number in each of {len(values)} cases, as ids do"
                )
            continue
        own = sorted({text.strip().casefold() for text in known})
        if len(own) > _MOST_WORDS or max(map(len, own)) > _LONGEST:
            raise BadSource(
                f"{told} has {len(own)} different words of up to {max(map(len, own))} letters; a "
                f"category has at most {_MOST_WORDS} of {_LONGEST}, lest it identify somebody"
            )
        place = {word: float(number) for number, word in enumerate(own)}
        words[name] = own
        found[name] = [place.get(text.strip().casefold(), math.nan) for text in texts]
    return found, words


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _value(name: str, text: str) -> float:
    value = _number(text) if missing(text) is None else None
    if value is None:
        return math.nan
    is_age = "age" in re.split(r"[\W_\d]+", name.casefold())
    return min(value, float(_OLDEST)) if is_age else value


def _whole(values: Sequence[float]) -> bool:
    return all(value.is_integer() for value in values)


def _shape(text: str) -> str:
    """Return a date with each digit replaced by 9."""
    return re.sub(r"\d", "9", text)
