"""The commands that a page under deploy/ tells its reader to type."""

import re
import shlex
from itertools import takewhile
from pathlib import Path


def fenced(page: Path) -> str:
    """Return the fenced parts of a page, lines that end in a backslash joined with the next."""
    text = page.read_text(encoding="utf-8")
    parts = re.findall(r"^```\w*\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    return "".join(parts).replace("\\\n", " ")


def commands(page: Path, program: str) -> list[list[str]]:
    """Return the words of each call of a program on a page, also inside $(...) and quotes."""
    text, found = fenced(page), []
    for start in re.finditer(rf"(?:^|(?<=[\s/('\"]))(?={program} )", text, re.MULTILINE):
        line = text[start.start() :].partition("\n")[0]
        parts = shlex.shlex(line, posix=True, punctuation_chars="();<>|&'\"")
        parts.whitespace_split = True
        parts.quotes = ""
        # A call ends with its line, or where the shell takes up something else.
        found.append(list(takewhile(lambda word: not set(word) <= set("();<>|&'\""), parts)))
    return found
