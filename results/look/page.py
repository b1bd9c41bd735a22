"""The page of a store as one dictionary for `templates/store.html`."""

from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import Any

import numpy as np
from markupsafe import Markup

from results import text
from results.look.content import Content, Levels
from results.look.pictures import colour_of, drawn
from results.report import plots
from results.report.data import about
from results.report.looks import COLOURS, DARK, DASHES, stroke
from results.tables.tasks import Answer, answer_of

# Lists with more lines than this are folded, and opened by a click. Assumption.
_OPEN = 20
# Kind of answer -> what the drawn cases are to cover, and what else counts as one of these.
_ANSWERS: Mapping[Answer | None, tuple[str, str]] = {
    "class": ("classes", ""),
    "mask": ("classes", " (an empty mask counts as one)"),
    "findings": ("findings", " (no finding counts as one)"),
    "number": ("quarters of the numbers", ""),
}
# Most ids of rejected cases shown for each reason. Assumption.
_IDS = 8


def page(content: Content) -> dict[str, Any]:
    """Return everything that the template shows of a store."""
    return {
        "name": content.name,
        "task": content.task,
        "data": about(content.data, (), content.task),
        "warnings": content.warnings,
        "cases": [_case(case) for case in content.cases],
        "covered": _covered(content),
        "legend": _legend(content),
        "counts": [_bars(heading, lines) for heading, lines in content.counts.items()],
        "sizes": content.sizes,
        "more_sizes": content.n_sizes - len(content.sizes),
        "axes": " × ".join(content.data["axes"]),
        "levels": _levels(content.levels),
        "nonzero": content.nonzero,
        "rejected": _rejected(content.rejected),
        "n_rejected": sum(map(len, content.rejected.values())),
        "again": content.again,
        "program": version("medoptbench"),
        "palette": {"light": COLOURS, "dark": DARK},
    }


def _case(case: Any) -> dict[str, Any]:
    rgb = drawn(case.planes)
    return {
        "id": case.case_id,
        "answer": case.answer,
        "facts": case.facts,
        "planes": [
            {
                "uri": plots.data_uri(pixels),
                "name": plane.name,
                "alt": f"{plane.name} of a case, {case.answer}",
            }
            for plane, pixels in zip(case.planes, rgb, strict=True)
        ],
    }


def _covered(content: Content) -> dict[str, Any]:
    """Return a sentence on how the cases were drawn, and how many would cover all answers."""
    there, of = content.covered
    drawing = f"{text.count(len(content.cases), 'case')} of {content.data['cases']}"
    drawing += f", drawn with seed {content.seed}"
    answers, beside = _ANSWERS[answer_of(content.task)]
    if there == of:
        every = f"both {answers}" if of == 2 else f"all {of} {answers}"
        said = f"{drawing} so that {every} are among them{beside}."
        return {"said": said, "wanted": None}
    return {"said": f"{drawing}: {there} of {of} {answers}{beside}.", "wanted": of}


def _legend(content: Content) -> list[dict[str, str]]:
    """Return {"name", "colour"} for each label that is outlined in a picture."""
    masks = [p.labels for case in content.cases for p in case.planes if p.labels is not None]
    labels = sorted({int(label) for mask in masks for label in np.unique(mask)} - {0})
    # Ignored voxels have the label after those of the classes.
    names = [*(each["name"] for each in content.data["classes"]), "ignored"]
    return [{"name": names[label], "colour": colour_of(label)} for label in labels]


def _bars(heading: str, lines: Sequence[tuple[str, int]]) -> dict[str, Any]:
    most = max((number for _, number in lines), default=0) or 1
    return {
        "heading": heading,
        "open": len(lines) <= _OPEN,
        "lines": [
            {"name": name, "number": number, "width": round(100 * number / most, 2)}
            for name, number in lines
        ],
    }


def _levels(levels: Sequence[Levels]) -> dict[str, Any] | None:
    """Return the histograms of the channels, at most as many as there are dashes."""
    shown = list(zip(COLOURS, DASHES, levels, strict=False))
    if not shown:
        return None
    names = [line.channel for _, _, line in shown]
    drawing = plots.histogram(
        [
            plots.Profile(colour=colour, dash=dash, ratios=line.edges, shares=line.shares)
            for colour, dash, line in shown
        ],
        name="levels",
        x_label="stored value",
        alt=f"Share of voxels by value, for {text.listed(names)}.",
    )
    return {
        "svg": Markup(drawing),  # noqa: S704 -- drawn by plots, which escapes every label
        "legend": [
            {
                "sign": Markup(stroke(colour, dash)),  # noqa: S704 -- of our own colours alone
                "name": line.channel,
            }
            for colour, dash, line in shown
        ],
        "left": [line.channel for line in levels[len(shown) :]],
    }


def _rejected(rejected: Mapping[str, Sequence[str]]) -> list[dict[str, Any]]:
    """Return each reason with its cases, the most common first."""
    lines = sorted(rejected.items(), key=lambda line: (-len(line[1]), line[0]))
    return [
        {"reason": reason, "number": len(ids), "ids": ids[:_IDS], "more": len(ids[_IDS:])}
        for reason, ids in lines
    ]
