"""The defaults of the protocol, which a study may change.

The schema of a study takes them from here; the report marks what departs from them.
"""

from typing import Any

DEFAULTS: dict[str, Any] = {
    "folds": 5,
    "repeats": 1,
    "inner_fraction": 0.2,
    "patience": 10,
    "stop_on": "score",
    "normalize": "z-score",
    "margin": 0.01,
    "alpha": 0.05,
}
