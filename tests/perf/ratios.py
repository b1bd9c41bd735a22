"""What `make bench` found, as ratios: each of two sides in one run, so that any machine may tell.

    python -m tests.perf.ratios          # the last run against what is kept; status 1: one is worse
    python -m tests.perf.ratios --keep   # keep what the last run found

A test notes in `extra_info["ratios"]` what ours takes over what the other takes: less is better.
One that times a single side notes which in `extra_info["side"]`: of each group ours over the
fastest of the others is a ratio too. Kept ratios stand in `kept.json`; runs, as pytest-benchmark
saves them, in `.benchmarks`, and beside them a page of how each ratio went, `trends.html`.
"""

import argparse
import io
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
from matplotlib.figure import Figure

SAVED = Path(".benchmarks")
KEPT = Path(__file__).with_name("kept.json")
# A ratio is worse where it is so many times the kept one. Assumption: twice what ratios differ by
# from run to run on a shared machine.
WORSE = 1.15

PAGE = jinja2.Template(
    """<!doctype html><html lang="en"><meta charset="utf-8"><title>Trends of speed</title>
<style>body { font: 15px/1.5 sans-serif; max-width: 60em; margin: 2em auto; padding: 0 1em }
svg { max-width: 100%; height: auto }</style>
<h1>Trends of speed</h1>
<p>What ours takes over what the other takes, by commit; less is better. Dotted: the ratio that is
kept, {{ worse }} times which fails.</p>
{% for name, picture in trends %}<h2>{{ name }}</h2>{{ picture | safe }}
{% endfor %}</html>""",
    autoescape=True,
)


@dataclass(frozen=True, kw_only=True)
class Run:
    """One saved run: when, of which commit, and its ratios by test and name."""

    at: str
    commit: str
    ratios: dict[str, float]


def runs_of(folder: Path) -> list[Run]:
    """Return the saved runs of every machine, the earliest first."""
    found = []
    for path in folder.glob("*/*.json"):
        saved = json.loads(path.read_text(encoding="utf-8"))
        tests = saved["benchmarks"]
        ratios = {
            f"{test['name']}: {name}": float(value)
            for test in tests
            for name, value in test["extra_info"].get("ratios", {}).items()
        }
        commit = saved["commit_info"]["id"][:8]
        found.append(Run(at=saved["datetime"], commit=commit, ratios=ratios | _of_groups(tests)))
    return sorted(found, key=lambda run: run.at)


def _of_groups(tests: Sequence[Any]) -> dict[str, float]:
    """Return ours over the fastest of the others, of each group that times sides one by one."""
    groups: dict[str, dict[bool, list[float]]] = {}
    for test in tests:
        side = test["extra_info"].get("side")
        if side in ("ours", "other"):
            sides = groups.setdefault(test["group"], {True: [], False: []})
            sides[side == "ours"].append(test["stats"]["median"])
    return {
        f"{group}: fastest peer": min(sides[True]) / min(sides[False])
        for group, sides in groups.items()
        if sides[True] and sides[False]
    }


def worse(ratios: dict[str, float], kept: dict[str, float]) -> list[str]:
    """Return a sentence for each ratio that got worse; one that was not measured is none."""
    return [
        f"{name}: {ratio:.3g}, kept is {kept[name]:.3g}"
        for name, ratio in sorted(ratios.items())
        if name in kept and ratio > WORSE * kept[name]
    ]


def trends(runs: Sequence[Run], kept: dict[str, float]) -> str:
    """Return the page of how each ratio went."""
    names = sorted({name for run in runs for name in run.ratios})
    return PAGE.render(
        worse=WORSE, trends=[(name, _picture(name, runs, kept.get(name))) for name in names]
    )


def _picture(name: str, runs: Sequence[Run], kept: float | None) -> str:
    have = [run for run in runs if name in run.ratios]
    figure = Figure(figsize=(8, 2.2), layout="constrained")
    axes = figure.subplots()
    axes.plot(range(len(have)), [run.ratios[name] for run in have], "o-")
    axes.set_xticks(range(len(have)), [f"{run.commit}\n{run.at[:10]}" for run in have])
    axes.set_ylim(bottom=0)
    if kept is not None:
        axes.axhline(kept, linestyle=":", color="gray")
    drawn = io.StringIO()
    figure.savefig(drawn, format="svg")
    return drawn.getvalue().partition("<svg")[1] + drawn.getvalue().partition("<svg")[2]


def main(arguments: Sequence[str], saved: Path = SAVED, kept_in: Path = KEPT) -> int:
    """Compare the last run with what is kept, and write the page; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.perf.ratios", description=__doc__)
    parser.add_argument("--keep", action="store_true", help="keep what the last run found")
    asked = parser.parse_args(arguments)
    runs = runs_of(saved)
    if not runs:
        print(f"{saved}: no run is saved there; `make bench` saves one", file=sys.stderr)
        return 2
    kept: dict[str, float] = json.loads(kept_in.read_text(encoding="utf-8"))
    now = runs[-1].ratios
    for name, ratio in sorted(now.items()):
        print(f"{ratio:8.3g}  {f'kept {kept[name]:.3g}' if name in kept else 'new':12}  {name}")
    if asked.keep:
        kept_in.write_text(json.dumps(kept | now, indent=2, sort_keys=True) + "\n", "utf-8")
        kept |= now
    page = saved / "trends.html"
    page.write_text(trends(runs, kept), encoding="utf-8")
    print(page)
    slower = worse(now, kept)
    for sentence in slower:
        print(f"slower: {sentence}", file=sys.stderr)
    return 1 if slower else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
