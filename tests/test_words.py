"""What every sentence of the project keeps to, read from the source."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
ROOMS = ("bench", "models", "loaders", "results")
# What the command line alone says.
OF_THE_COMMAND = {ROOT / "bench" / "cli.py", ROOT / "bench" / "command.py"}

FLAG = re.compile(r"(?<![\w-])--[a-z][a-z-]*")


def flags(source: str) -> Iterator[tuple[int, str]]:
    """Yield (line, flag) of each flag that a text names outside a command in backticks.

    Docstrings are for those who read the source, and a flag by itself is an argument of a command.
    """
    tree = ast.parse(source)
    documented = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.FunctionDef | ast.ClassDef)
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            text = re.sub(r"`[^`]*(`|$)", "", node.value)
            if id(node) not in documented and not re.fullmatch(r"--\S+", text):
                for found in FLAG.findall(text):
                    yield node.lineno, found


@pytest.mark.parametrize("room", ROOMS)
def test_sentences_are_true_for_the_command_and_for_python(room: str) -> None:
    """A notebook calls the same functions, where `--set label=x` is no way to set anything."""
    wrong = [
        f"{path.relative_to(ROOT)}:{line}: {flag}"
        for path in sorted((ROOT / room).rglob("*.py"))
        if path not in OF_THE_COMMAND
        for line, flag in flags(path.read_text(encoding="utf-8"))
    ]
    assert not wrong


def test_a_flag_in_a_sentence_is_seen() -> None:
    sentence = 'raise BadSource(f"{table}: say which, "\n    f"--set csv={name} or --strict")'
    assert [flag for _, flag in flags(sentence)] == ["--set", "--strict"]
    assert not list(flags('"""Or --set."""\nrun(["--out", "x"], "`medopt run --ray`, a -- b")'))
