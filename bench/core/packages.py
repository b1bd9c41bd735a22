"""The four packages of this project, and a check that they are ours.

They have common names, so a folder `models/` in the way could stand in for ours without a word.
Every process checks at its start.
"""

from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("bench", "models", "loaders", "results")


def check_packages() -> None:
    """Raise ImportError if a top-level package of this project is shadowed by another folder."""
    for name in PACKAGES:
        spec = find_spec(name)
        found = [Path(p).resolve() for p in (spec.submodule_search_locations or [])] if spec else []
        if found[:1] != [ROOT / name]:
            where = found[0] if found else "nowhere"
            raise ImportError(
                f"the package {name!r} should come from {ROOT / name}, but Python finds {where}. "
                f"A folder of that name stands in the way: start `medopt` from another folder, "
                f"or take that folder's parent out of PYTHONPATH."
            )
