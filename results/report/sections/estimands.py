"""The three questions with their answers, and what other metrics say, for the page."""

from collections.abc import Mapping
from typing import Any

from results import text

_ASKED = {
    "procedure": "If trained anew on as many similar patients",
    "models": "The models trained here, on new patients",
}


def answers(found: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return each question of a data set's verdict with its state and sentence."""
    claims = [
        {
            "asked": _ASKED.get(claim["of"], f"The {claim['of']}, on average over the rest"),
            "state": claim["state"],
            "badge": text.STATES[claim["state"]] if claim["state"] != "none" else "No claim",
            "sentence": claim["sentence"],
        }
        for claim in found["claims"]
    ]
    others = [
        {
            "asked": f"By {text.metric(second['metric'])} instead",
            "state": "none",
            "badge": _agreement(second),
            "sentence": second["sentence"],
        }
        for second in found["second"]
    ]
    return claims + others


def leading(found: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the claims on single axes that are decided although no combination is.

    Those are better or tied on average. Axes whose order depends on another axis are left out,
    since an average says little there.
    """
    if found["state"] != "undecided":
        return []
    dependent = {axis for each in found["interactions"] if each["real"] for axis in each["axes"]}
    return [
        claim
        for claim in found["claims"]
        if claim["of"] not in (*_ASKED, *dependent) and claim["state"] in ("better", "tie")
    ]


def _agreement(second: Mapping[str, Any]) -> str:
    if second["agrees"] and second["state"] != "better":
        return "No winner"
    return {True: "Agrees", False: "Differs", None: "Unknown"}[second["agrees"]]
