"""What a result depends on besides its study: stored with it, and compared between machines."""

from typing import Any

import torch

from bench.core.environment import device_name, git_commit, versions
from bench.metrics.table import METRICS
from bench.planning.plan import Plan
from bench.planning.points import spaces
from bench.study.components import Part, loss_row, model_row, optimizer_row
from bench.study.dataset import DataSet, described
from bench.study.trial import NUMERICS


def footer(plan: Plan) -> dict[str, Any]:
    """Return the footer of every results file of a run."""
    return {
        "git_commit": git_commit(),
        "versions": versions(),
        "device": device_name(torch.device(plan.study.device)),
        "metrics": {
            m.name: {
                "direction": "max" if m.higher_is_better else "min",
                "range": list(m.range),
                "unit": m.unit,
                "influence": m.influence,
            }
            for m in METRICS.values()
        },
        "protocol": plan.study.model_dump(mode="json"),
        "numerics": NUMERICS,
        "data": {data.name: _described(data) for data in plan.sets},
        **({"spaces": spaces(plan)} if plan.study.tuning else {}),
    }


def _described(data: DataSet) -> dict[str, Any]:
    """Describe a data set, with the caveats of its splits and its test store, if any."""
    outside = data.store.outside
    return {
        **described(data.own),
        **({"notes": list(data.notes)} if data.notes else {}),
        **({"tested_on": described(outside)} if outside is not None else {}),
    }


def code_fingerprint() -> dict[str, str]:
    """Return name -> value for what must be the same in each process that runs our code.

    These are versions of packages, the version of the numerics and, in a git checkout, its commit:
    plain values, so that they can be compared before anything of ours is unpickled.
    """
    # Uncommitted changes do not count: an edit during a run would shut out a restarted lane.
    commit = (git_commit() or "").removesuffix("-dirty")
    return {
        **({"commit": commit} if commit else {}),
        "version of the numerics": str(NUMERICS),
        **{f"version of {name}": found for name, found in versions().items()},
    }


def plan_fingerprint(plan: Plan) -> dict[str, str]:
    """Return name -> value for what must be the same wherever a plan's trials run.

    These are the content of each store, and the sources of the user's own code. Raises OSError or
    ValueError if they cannot be read.
    """
    study, base = plan.study, plan.base
    rows: dict[str, Part[Any]] = {
        **{entry.name: model_row(entry.name, entry.params, base) for entry in study.models},
        **{entry.name: optimizer_row(entry.name, entry.params, base) for entry in study.optimizers},
        **{entry.name: loss_row(entry.name, entry.params, base) for entry in study.losses},
    }
    return {
        **{f"store of {data.name!r}": data.store.content_hash for data in plan.sets},
        **{f"source of {name!r}": row.identity for name, row in rows.items()},
    }


def differences(expected: dict[str, str], found: dict[str, str]) -> str | None:
    """Return how two fingerprints differ, None if they do not.

    A commit that only one side knows (the other is not a git checkout) is not compared.
    """
    other = [
        f"{name} is {found.get(name, 'unknown')}, not {value}"
        for name, value in expected.items()
        if found.get(name) != value and not (name == "commit" and name not in found)
    ]
    return "; ".join(other) or None
