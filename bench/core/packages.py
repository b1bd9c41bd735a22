"""The four packages of this project, and a check that they are ours.

Their names are common: another folder called `models/` could be imported instead of ours
unnoticed. So every process checks them when it starts.
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
                f"Another folder of that name comes first: start `medopt` from another folder, "
                f"or remove that folder's parent from PYTHONPATH."
            )
