"""The axes one by one, by their means over the others, and how they interact, for the page."""

from collections.abc import Mapping
from typing import Any

from results.report.sections.bars import bars


def margins(found: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the marginal tables and interactions of a data set's verdict; None without any."""
    if not found["margins"]:
        return None
    tables = []
    for margin in found["margins"]:
        levels = margin["levels"]
        drawn = bars(levels, grouped="in_group")
        lines = [{**level, **bar} for level, bar in zip(levels, drawn, strict=True)]
        tables.append({**margin, "lines": lines})
    return {
        "tables": tables,
        "interactions": [
            {**each, "title": " and ".join(each["axes"])} for each in found["interactions"]
        ],
    }
