"""The words for a missing value, against pandas' own list and what spreadsheets print."""

import pytest
from pandas._libs.parsers import STR_NA_VALUES

from loaders.formats.missing_words import missing

# What Excel shows for an error: Microsoft's ERROR.TYPE and ISNA pages in English, German, French,
# Spanish, Italian, Dutch, Polish, Swedish and Danish; Err:502 and #NAME? as LibreOffice has them.
ERRORS = [
    "#N/A",
    "#NAME?",
    "#DIV/0!",
    "#VALUE!",
    "#REF!",
    "#NUM!",
    "#NULL!",
    "#GETTING_DATA",
    "#SPILL!",
    "#CALC!",
    "#FIELD!",
    "#BLOCKED!",
    "#CONNECT!",
    "#UNKNOWN!",
    "#BUSY!",
    "#NV",
    "#WERT!",
    "#BEZUG!",
    "#ZAHL!",
    "#VALEUR!",
    "#NOM?",
    "#NOMBRE!",
    "#NUL!",
    "#N/D",
    "#¡VALOR!",
    "#¿NOMBRE?",
    "#¡REF!",
    "#¡DIV/0!",
    "#VALORE!",
    "#RIF!",
    "#NOME?",
    "#N/B",
    "#WAARDE!",
    "#VERW!",
    "#GETAL!",
    "#NAAM?",
    "#N/D!",
    "#ARG!",
    "#ADR!",
    "#LICZBA!",
    "#SAKNAS!",
    "#VÄRDEFEL!",
    "#I/T",
    "Err:502",
    "#ERROR!",
    "####",
    "?",
]


@pytest.mark.parametrize("word", sorted(STR_NA_VALUES))
def test_what_pandas_reads_as_missing_is_missing(word: str) -> None:
    # "None" may be a class: "None", "Mild", "Severe".
    assert (missing(word) == "unnamed") == (word == "None")
    assert missing(word) is not None
    assert missing(f"\u00a0{word.swapcase()}\u200b") == missing(word)


@pytest.mark.parametrize("word", ERRORS)
def test_a_formula_that_failed_is_lost(word: str) -> None:
    assert missing(word) == "lost"
    assert missing(word.lower()) == "lost"


@pytest.mark.parametrize("word", ["none", "Unknown", "ANONYMOUS", "-", "not  available"])
def test_a_word_that_names_nobody(word: str) -> None:
    assert missing(word) == "unnamed"


@pytest.mark.parametrize(
    "word",
    ["0", "1", "-1", "nevus", "#1", "#12a", "no finding", "No", "N", "A", "nana", "x", "normal",
     "+", "refer!", "# 3", "Err", "inf", "NAT-1", "#tumour"],
)  # fmt: skip
def test_a_value_is_a_value(word: str) -> None:
    assert missing(word) is None
