"""What a run shows about the papers' claims, for the page."""

from typing import Any

from results.claims.answers import claims_of
from results.claims.terminal import footnote
from results.run_folder import Recorded


def claims(run: Recorded) -> dict[str, Any] | None:
    """Return {"answered", "unanswered", "note"}; None if no claim is answered."""
    found = claims_of([run])
    if not found["answered"]:
        return None
    return {**found, "note": footnote(found)}
