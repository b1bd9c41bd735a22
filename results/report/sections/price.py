"""The price of training to a target: a table per data set, and profiles of optimizers."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from markupsafe import Markup

from results import text
from results.prices import Contenders, Price, Prices, contenders, prices
from results.report import plots
from results.report.looks import COLOURS, DASHES, stroke
from results.run_folder import Recorded
from results.statistics import profiles

# Most profiles in one figure: more cannot be distinguished.
_PROFILES = min(len(COLOURS), len(DASHES))
_NEVER = "not reached"


def of_run(run: Recorded) -> list[Prices | None]:
    """Return the prices of each data set of a run, in the order of its contests."""
    alpha = run.verdict["alpha"]
    return [prices(contest, run.columns_of, alpha, run.alone) for contest in run.contests]


def table(found: Prices | None, short: Mapping[str, str]) -> dict[str, Any] | None:
    """Return what the template shows of one data set, the cheapest first; None without prices.

    Those with equal prices (none reached the target, or no price is known) are in order of samples.
    """
    if found is None:
        return None
    order = sorted(found.rows, key=lambda row: (row.price or math.inf, row.sample_gradients))
    return {
        "target": found.target.said,
        "noise": found.noise,
        "measured": found.measured,
        "priced": any(row.sample_sec is not None for row in found.rows),
        "lines": [{"name": short[row.name], **_line(row)} for row in order],
    }


def _line(row: Price) -> dict[str, str]:
    return {
        "reached": f"{row.reached} of {row.ended}",
        "samples": _number(row.sample_gradients),
        "evaluations": _number(row.evaluations),
        "each": "–" if row.sample_sec is None else f"{1e3 * row.sample_sec:.3g} ms",
        "price": _seconds(row.price),
        "raw": _seconds(row.seconds),
        "memory": "–" if row.memory is None else f"{row.memory / 2**20:,.0f} MiB".replace(",", " "),
    }


def _number(value: float) -> str:
    return text.rate(value) if math.isfinite(value) else _NEVER


def _seconds(value: float | None) -> str:
    return text.duration(value) if value is None or math.isfinite(value) else _NEVER


def of_optimizers(every: Sequence[Prices | None]) -> dict[str, Any] | None:
    """Return the profiles and scores of the optimizers over all problems of a run, best first.

    None if fewer than two finished the same problems.
    """
    found = contenders([one for one in every if one is not None])
    if found is None:
        return None
    by = {
        "samples": (found.sample_gradients, "sample-gradients"),
        "seconds": (found.seconds, "seconds alone" if found.alone else "raw seconds"),
    }
    scores = {key: profiles.score(costs) for key, (costs, _) in by.items()}
    order = [int(i) for i in np.argsort(-scores["samples"], kind="stable")]
    shown = order[:_PROFILES]
    signs = {
        place: stroke(colour, dash)
        for place, colour, dash in zip(shown, COLOURS, DASHES, strict=False)
    }
    return {
        "alone": found.alone,
        "problems": found.sample_gradients.shape[1],
        "left_out": found.left_out,
        "nobody": int(np.isinf(found.sample_gradients).all(axis=0).sum()),
        "figures": [
            {"svg": _drawn(found, shown, costs, what, f"profile-{key}"), "by": what}
            for key, (costs, what) in by.items()
        ],
        "legend": [
            {"sign": Markup(sign), "name": found.names[place]}  # noqa: S704 -- drawn by looks
            for place, sign in signs.items()
        ],
        "seconds_are": by["seconds"][1],
        "lines": [
            {
                "name": found.names[place],
                "samples": scores["samples"][place],
                "seconds": scores["seconds"][place],
                "reached": float(np.isfinite(found.sample_gradients[place]).mean()),
            }
            for place in order
        ],
    }


def _drawn(
    found: Contenders, shown: Sequence[int], costs: np.ndarray, what: str, name: str
) -> Markup:
    shares = profiles.profile(costs)
    names = text.listed([found.names[place] for place in shown])
    drawn = plots.profiles(
        [
            plots.Profile(colour=colour, dash=dash, ratios=profiles.TAUS, shares=shares[place])
            for place, colour, dash in zip(shown, COLOURS, DASHES, strict=False)
        ],
        name=name,
        x_label=f"{what} to the target / least of any optimizer",
        y_label="share of problems",
        alt=f"Performance profiles of {names}: share of {costs.shape[1]} problems solved within a "
        f"multiple of the least {what} of any optimizer.",
    )
    return Markup(drawn)  # noqa: S704 -- drawn by plots, which escapes every label
