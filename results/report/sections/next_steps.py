"""Where the uncertainty comes from, what would decide, and at what price, for the page."""

from collections.abc import Mapping
from typing import Any

from results import text

_COLOURS = {"patients": "#2f7f8f", "training": "#e08a3c", "seed": "#7a5aa6"}
_NAMES = {"patients": "patients tested", "training": "training sets", "seed": "seed"}


def next_steps(found: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the shares of the uncertainty and the ways to decide; None without a comparison."""
    if found["next"] is None:
        return None
    shares = found["errors"]["shares"] or {}
    return {
        "sentence": found["next"]["sentence"],
        "shares": [
            {
                "name": _NAMES[part] if shares["seed"] is not None else _alone(part),
                "colour": _COLOURS[part],
                "width": round(100 * share, 2),
                "said": text.percent(round(share, 3)),
            }
            for part, share in shares.items()
            if share is not None
        ],
        "options": [
            {
                **option,
                "named": text.count(option["number"], option["what"].removesuffix("s")),
                "price": text.duration(option["seconds"], unknown="") or "new data",
            }
            for option in found["next"]["options"]
        ],
    }


def _alone(part: str) -> str:
    return "training" if part == "training" else _NAMES[part]
