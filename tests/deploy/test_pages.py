"""What the README, docs/ and deploy/ tell their readers to type, and to read, is there."""

import re
from pathlib import Path

import click
import pytest
import typer

from tests.deploy.pages import commands

ROOT = Path(__file__).resolve().parents[2]
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md")),
    *(page for room in ("deploy", "docs") for page in sorted((ROOT / room).rglob("*.md"))),
]


def check(root: click.Command, words: list[str]) -> None:
    """Raise where a command, or an option of it, is not there; what is after `--` is another's."""
    own = words[: words.index("--")] if "--" in words else words
    command, rest = root, own[1:]
    while hasattr(command, "commands"):  # a group; typer's is none of click's classes
        command, rest = command.commands[rest[0]], rest[1:]
    there = {name for param in command.params for name in (*param.opts, *param.secondary_opts)}
    given = {word.partition("=")[0] for word in rest if word.startswith("-")}
    assert given <= there, (own, given - there)


def headings(page: Path) -> set[str]:
    """Return the names that links give the headings of a page."""
    lines = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", line.lower()).replace(" ", "-") for line in lines}


def ray_command() -> click.Command:
    from ray.scripts.scripts import cli

    return cli


def medopt_command() -> click.Command:
    from bench.cli import app

    return typer.main.get_command(app)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_each_command_is_there_with_its_options(page):
    for program, root in (("ray", ray_command()), ("medopt", medopt_command())):
        for words in commands(page, program):
            check(root, words)


def test_commands_are_found_and_wrong_ones_are_seen(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(
        "ray nothing\n```\n(umask 077; ray get-auth-token --generate >/dev/null)\n"
        "ray exec x.yaml 'cd /a && ~/venv/bin/ray status -v'\n"
        "ray job submit --no-wait \\\n  -- medopt run s.yaml --rays\n```\n"
    )
    found = commands(page, "ray")
    assert [words[1] for words in found] == ["get-auth-token", "exec", "status", "job"]
    for words in found:
        check(ray_command(), words)
    (wrong,) = commands(page, "medopt")
    with pytest.raises(AssertionError, match="--rays"):
        check(medopt_command(), wrong)
    with pytest.raises(KeyError):
        check(ray_command(), ["ray", "begin"])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_each_file_that_a_page_names_is_there(page):
    text = page.read_text(encoding="utf-8")
    for link, part in re.findall(r"\]\(([^)#:]*)(?:#([^)]*))?\)", text):
        assert (page.parent / link).exists(), link
        assert not part or part in headings(page.parent / link if link else page), part
    for path in re.findall(r"\b((?:deploy/[\w./-]+|ray_cluster)\.\w+)\b", text):
        assert (ROOT / path).exists(), path
