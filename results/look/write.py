"""Writes the look at a store: a page that needs no network, and a picture beside it."""

import io
from pathlib import Path

from results.look.content import Content
from results.look.page import page
from results.look.pictures import of_cases
from results.report.write import environment
from results.tables.files import replace_file


def write_look(content: Content, out: Path) -> Path:
    """Write the page `out` and a picture of its cases beside it; return the path of the picture.

    A file is replaced whole or not at all. Raises OSError if it cannot be written.
    """
    html = environment().get_template("store.html").render(page(content))
    drawing = io.BytesIO()
    of_cases(content.cases, content.name).savefig(drawing, format="png", dpi=120)
    out.parent.mkdir(parents=True, exist_ok=True)
    picture = out.with_suffix(".png")
    replace_file(picture, drawing.getvalue())
    replace_file(out, html.encode())
    return picture
