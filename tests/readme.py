"""The parts of README.md that are made from the project: `python -m tests.readme` writes them.

They are between `<!-- made: NAME -->` and `<!-- end: NAME -->`.
"""

import ast
import re
from collections.abc import Callable
from pathlib import Path

from bench.catalogue import TABLES

ROOT = Path(__file__).resolve().parent.parent
README = ROOT / "README.md"
ROOMS = ("bench", "loaders", "models", "results")
# What the tree shows of a room besides its folders.
FILES = {"bench": ("cli.py", "api.py"), "models": ("table.py",), "loaders": ("cases.py",)}
COMPARED = ("models", "optimizers", "losses", "schedules", "regularizers", "clinical", "labels")


def caption(path: Path) -> str:
    """Return the first line of a module's docstring, without its full stop."""
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return text.splitlines()[0].rstrip(".")


def tree() -> str:
    """Return the tree of the project, a caption a line."""
    lines = []
    for room in ROOMS:
        lines.append((f"{room}/", caption(ROOT / room / "__init__.py")))
        inside = [ROOT / room / name for name in FILES.get(room, ())]
        lines += [(f"  {path.name}", caption(path)) for path in inside if path.exists()]
        for folder in sorted(p.parent for p in (ROOT / room).rglob("__init__.py")):
            parts = folder.relative_to(ROOT / room).parts
            if parts:
                lines.append((f"{'  ' * len(parts)}{parts[-1]}/", caption(folder / "__init__.py")))
    width = max(len(name) for name, _ in lines) + 2
    return "\n".join(["```", *(f"{name:{width}}{about}" for name, about in lines), "```"])


def entries() -> str:
    """Return the table of what can be compared: an axis a row, its entries by name."""
    rows = ["| axis | entries |", "|---|---|"]
    for kind in COMPARED:
        names = ", ".join(f"`{row['name']}`" for row in TABLES[kind]())
        rows.append(f"| `{kind}` | {names} |")
    rows.append("| `pretrained` | `none`, `imagenet`, a file of weights, the folder of a run |")
    return "\n".join(rows)


MADE: dict[str, Callable[[], str]] = {"tree": tree, "entries": entries}


def written(text: str) -> str:
    """Return README's text with every made part as the project is now."""
    for name, make in MADE.items():
        pattern = rf"(<!-- made: {name} -->\n).*?(\n<!-- end: {name} -->)"
        made = make()
        text, found = re.subn(
            pattern, lambda m, made=made: m[1] + made + m[2], text, flags=re.DOTALL
        )
        assert found == 1, name
    return text


if __name__ == "__main__":
    README.write_text(written(README.read_text(encoding="utf-8")), encoding="utf-8")
