"""The words that tables use for a missing value.

`blank`: the cell is empty, or holds what spreadsheets, databases, R and pandas write for an empty
one. `lost`: the value was lost: a formula's error (Excel's in several languages, LibreOffice's),
the hashes of a column too narrow to show it, a question mark. `unnamed`: a word such as "none",
"unknown" or "-", which never identifies a patient, reader, part or file, but may be a class.
"""

import re
import unicodedata
from functools import lru_cache
from typing import Literal, TypeAlias

Missing: TypeAlias = Literal["blank", "lost", "unnamed"]

# Beside each group, who writes it. In lower case, NFKC.
_BLANK = frozenset(
    (
        *("", "na", "n/a", "n.a.", "n.a", "nan", "+nan", "-nan", "null", "."),  # R, C, SAS
        *("<na>", "#na", "<null>", "(null)", "\\n"),  # pandas, databases, MySQL
        *("(blank)", "(empty)", "(leer)", "(vide)"),  # Excel's pivot tables
    )
)
_UNNAMED = frozenset(
    (
        *("none", "nil", "nat", "unknown", "unk", "undefined", "missing", "blank", "empty"),
        *("not available", "not known", "not recorded", "not applicable", "not specified"),
        *("anonymous", "anonymized", "anonymised", "anon", "deidentified", "de-identified"),
        *("unbekannt", "inconnu", "desconocido", "sconosciuto", "onbekend", "no id", "no name"),
        *("-", "--", "---", "\u2013", "\u2014", "*", "**", "***"),
    )
)
# What C libraries print of a NaN; pandas takes them for one too.
_NAN = re.compile(r"[+-]?1\.#(ind|[qs]nan)0*")
_LOST = re.compile(
    r"#[\u00a1\u00bf]?[^\W\d_][^\s]*[!?]"  # #REF!, #NAME?, #DIV/0!, #WERT!, #\u00a1VALOR!
    r"|#[^\W\d_]/[^\W\d_](\s.*)?"  # not available: #N/A, #N/A N/A (Bloomberg), #N/D, #I/T, #N/B
    r"|#nv|#yok|#hi\u00e1nyzik|#nen\u00ed_k_dispozici|#nedostupn\u00fd"  # the same, in one word
    r"|#getting_data|#err(or)?"
    r"|(err|fehler|error):[0-9]{3}"  # LibreOffice
    r"|#+"  # a number or date wider than its column
    r"|\?+"
)


@lru_cache(maxsize=4096)
def missing(text: str) -> Missing | None:
    """Return in which way a cell's value is missing, or None if it is not.

    Case, surrounding blanks and invisible characters make no difference.
    """
    seen = "".join(c for c in text if unicodedata.category(c) not in ("Cf", "Cc"))
    word = " ".join(unicodedata.normalize("NFKC", seen).casefold().split())
    if word in _BLANK or _NAN.fullmatch(word):
        return "blank"
    if _LOST.fullmatch(word):
        return "lost"
    return "unnamed" if word in _UNNAMED else None
