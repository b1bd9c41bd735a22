"""Clinical columns of a table (age, sex, ...) as numbers, and the columns that nobody may keep.

A column whose values are all numbers is a number; any other is a category, numbered by the
alphabet. What names somebody is refused: by the name of the column, by dates, by more different
words than a category has, and by whole numbers of which each case has another. Ages above 89 are
kept as 90, as the U.S. rule for health data that name nobody has it (45 CFR 164.514(b)(2)(i)(C)).
"""

import math
import re
from collections.abc import Mapping, Sequence

from loaders.cases import BadSource
from loaders.formats.missing_words import missing

# Words of a column's name that say who somebody is, or when: 45 CFR 164.514(b)(2)(i) lists names,
# places, dates, telephone and account numbers, addresses, certificates, devices and codes.
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
# More words than this are names or places rather than a category, longer ones too. Assumptions.
_MOST_WORDS, _LONGEST = 20, 40
# So many cases that each have another whole number have an id. Assumption.
_FEW = 50
_OLDEST = 90


def refuse_names(columns: Sequence[str]) -> None:
    """Raise BadSource where a column is called as what says who or when somebody was."""
    for column in columns:
        parts = re.sub(r"([a-z])([A-Z])", r"\1 \2", column)
        words = [word for word in re.split(r"[\W_]+", parts.casefold()) if word]
        told = [word for word in (*words, "".join(words)) if word in _WHO]
        if told:
            raise BadSource(
                f"option clinical: column {column!r} looks as if it told who somebody is "
                f"({told[0]}): a store keeps ages, sexes, measurements and the like, never names, "
                "ids or dates"
            )


def numbered(
    where: str, columns: Mapping[str, Sequence[str]]
) -> tuple[dict[str, list[float]], dict[str, list[str]]]:
    """Return each column as numbers, nan where it is missing, and the words of those of categories.

    `columns` maps a name to the text of each case, `where` begins the messages: which table.
    Raises BadSource where values tell who somebody is, or say nothing.
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
                    f"{told} has another whole number for each of {len(values)} cases, as ids have"
                )
            continue
        own = sorted({text.strip().casefold() for text in known})
        if len(own) > _MOST_WORDS or max(map(len, own)) > _LONGEST:
            raise BadSource(
                f"{told} has {len(own)} different words of up to {max(map(len, own))} letters; a "
                f"category has at most {_MOST_WORDS} of {_LONGEST}, lest it tell who somebody is"
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
    """Return a date without its figures."""
    return re.sub(r"\d", "9", text)
