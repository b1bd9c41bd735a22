"""A soak: random faults, several in a run, by a seed; a log that is kept, and gone on from.

    python -m tests.bench.execution.hosts.soak --seed 1 --times 10 --log soak.jsonl

Each kind of fault happens so many times. With `--minutes` no run begins after them; the same
command goes on where the log ends. The status is 1 where a run was not as it should be.
"""

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tests.bench.execution.hosts.cluster import cluster
from tests.bench.execution.hosts.faults import FAULTS, tried
from tests.bench.execution.hosts.namespaces import missing
from tests.bench.execution.hosts.study import make_studies, undisturbed

# So many at most happen to one run. Assumption.
MOST = 5
# Of the two hosts beside the head all may be lost at once: the head's lane goes on.
LOSE, LOST = ("raylet", "host", "leave"), 2


def dealt(seed: int, number: int, left: Counter[str]) -> list[str]:
    """Return the faults of a run, by its number, from those that have not happened yet."""
    rng = random.Random(f"{seed}-{number}")
    deck = sorted(left.elements())
    rng.shuffle(deck)
    most, hand = rng.randint(2, MOST), list[str]()
    for card in deck:
        # What ends the command comes last.
        more = sorted([*hand, card], key=lambda each: FAULTS[each].status is not None)
        if len(hand) < most and playable(more):
            hand = more
    return hand


def playable(hand: list[str]) -> bool:
    """Return whether a run can have these faults: few hosts away at once, an end last."""
    if hand.count("join") > 1 or any(FAULTS[card].status is not None for card in hand[:-1]):
        return False
    away = hand.count("join")  # a host that is to join is not there from the start
    for card in hand:
        away += (card in LOSE) - (card == "join")
        if away > LOST:
            return False
    return True


def gone_on(log: Path, seed: int) -> list[dict[str, Any]]:
    """Return the runs that a log has; ends the process where they are of another seed."""
    lines = log.read_text().splitlines() if log.exists() else []
    runs: list[dict[str, Any]] = [json.loads(line) for line in lines]
    if any(run["seed"] != seed for run in runs):
        sys.exit(f"{log}: it is the log of seed {runs[0]['seed']}, not of {seed}")
    return runs


def summary(runs: list[dict[str, Any]]) -> str:
    """Return what a log says: runs, faults by kind, and what was wrong."""
    kinds = Counter(kind for run in runs for kind, _ in run["happened"])
    wrong = sum(run["wrong"] is not None for run in runs)
    each = ", ".join(f"{kind} {kinds[kind]}" for kind in FAULTS)
    minutes = sum(run["seconds"] for run in runs) / 60
    return (
        f"{kinds.total()} faults ({each}) in {len(runs)} runs and {minutes:.0f} min; "
        f"{wrong} run(s) not as they should be"
    )


def main() -> None:
    """Let faults happen until each has happened as often as was asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--times", type=int, default=10, help="of each kind")
    parser.add_argument("--log", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=float("inf"))
    asked = parser.parse_args()
    if why := missing():
        sys.exit(why)
    until = time.monotonic() + asked.minutes * 60
    runs = gone_on(asked.log, asked.seed)
    with tempfile.TemporaryDirectory(prefix="medopt-soak-", ignore_cleanup_errors=True) as made:
        folder = Path(made)
        make_studies(folder)
        expected = undisturbed(folder)
        with cluster(folder) as hosts, asked.log.open("a") as log:
            while time.monotonic() < until:
                left = Counter(dict.fromkeys(FAULTS, asked.times))
                left -= Counter(kind for run in runs for kind, _ in run["happened"])
                if not left:
                    break
                hosts.mend()  # a cluster that does not come up is no fault of a run's
                number, begun = len(runs), time.monotonic()
                faults, happened, wrong = dealt(asked.seed, number, left), [], None
                try:
                    tried(hosts, f"run-{number}", faults, number, expected, happened.append)
                except (AssertionError, subprocess.SubprocessError):  # the soak goes on
                    wrong = traceback.format_exc()
                runs.append(
                    {
                        "run": number,
                        "seed": asked.seed,
                        "at": datetime.now(UTC).isoformat(timespec="seconds"),
                        "seconds": round(time.monotonic() - begun, 1),
                        "dealt": faults,
                        "happened": happened,
                        "wrong": wrong,
                    }
                )
                print(json.dumps(runs[-1]), file=log, flush=True)
                print(summary(runs), flush=True)
    sys.exit(any(run["wrong"] for run in runs))


if __name__ == "__main__":
    main()
