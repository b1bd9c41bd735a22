"""A verdict as the terminal shows it: what was found, how certain it is, what it costs."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from results import text
from results.report.sections.estimands import leading

# Most rows of the table; report.html has them all.
_ROWS = 12

# Signs of the recommended row and of the others in the group; they need no colour.
_RECOMMENDED, _GROUPED = "★", "●"

_STYLES = {
    "better": "bold green",
    "tie": "bold cyan",
    "undecided": "bold yellow",
}


def leaderboard(verdict: Mapping[str, Any]) -> RenderableType:
    """Return a verdict (the content of verdict.json) for printing; its names are never markup."""
    return Group(*_terminal(verdict))


def _terminal(verdict: Mapping[str, Any]) -> Iterator[RenderableType]:
    for found in verdict["datasets"]:
        yield Text("")
        yield Text.assemble(
            (found["dataset"], "bold"),
            f"  {found['task']}, {text.metric(found['metric'])} "
            f"({'higher' if found['direction'] == 'max' else 'lower'} is better), "
            f"{text.count(found['folds'], 'fold')}, {text.count(found['seeds'], 'seed')}",
        )
        first = leading(found)
        for claim in first:
            yield Text.assemble(*_badge(claim["state"]), claim["sentence"])
        yield Text.assemble(*_badge(found["state"]), found["reason"])
        judged = [row for row in found["combinations"] if row["state"] == "judged"]
        if judged:
            yield Padding(_table(found, judged), (0, 0, 0, 2))
            yield Padding(Text(_legend(found), style="dim"), (0, 0, 0, 2))
        # The headline's sentence opens the reason; the others are printed below the table.
        found_on = [
            claim
            for claim in found["claims"][1:]
            if claim not in first and (claim["state"] == "better" or claim["of"] == "models")
        ]
        real = [each for each in found["interactions"] if each["real"]]
        for each in (*found_on, *real, *found["second"]):
            yield Text(each["sentence"])
        if found["next"] and found["next"]["sentence"] not in found["reason"]:
            yield Text(found["next"]["sentence"])
        chosen = found["selected_by_validation"]
        if chosen:
            alone, anew = (
                text.scored(each["test_score"], each["low"], each["high"], found["alpha"])
                for each in (chosen, chosen["nested"])
            )
            yield Text(
                f"Chosen by inner validation alone: {chosen['name']}, test {alone}. Chosen anew in "
                f"each fold: {anew}, the honest estimate of what the procedure delivers."
            )
        if found["settings"]:
            yield Text(found["settings"])
        yield from _not_judged(found["combinations"])
        for warning in found["warnings"]:
            yield Text.assemble(("warning: ", "yellow"), warning)
    if verdict["across"]:
        yield Text("")
        yield Text(verdict["across"]["reason"])


def _badge(state: str) -> tuple[Any, ...]:
    return () if state == "none" else ((text.STATES[state], _STYLES[state]), ": ")


def _not_judged(rows: Sequence[Mapping[str, Any]]) -> Iterator[Text]:
    """Say what became of the others, grouped by what happened."""
    fates: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        if row["state"] != "judged":
            fates.setdefault((row["state"], row["note"]), []).append(row["name"])
    for (state, note), names in fates.items():
        who = text.listed(names) if len(names) < 3 else text.count(len(names), "combination")
        what = "skipped" if state == "skipped" else "not judged"
        yield Text(f"{what}: {who} ({note})", style="dim")


def _table(found: Mapping[str, Any], judged: Sequence[Mapping[str, Any]]) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    short, alone = text.short_names(found["combinations"]), len(found["tied_group"]) == 1
    for title, side in (
        ("", "left"),
        ("combination", "left"),
        ("test", "right"),
        (f"against the best ({text.percent(1 - found['alpha'])})", "right"),
        ("training", "right"),
    ):
        table.add_column(title, justify="left" if side == "left" else "right")
    for row in judged[:_ROWS]:
        advantage = row["advantage"]
        table.add_row(
            Text(_mark(row, found["recommended"])),
            Text(short[row["name"]], style="bold" if row["name"] == found["recommended"] else ""),
            Text(text.score(row["test_score"])),
            Text(
                f"{text.signed(advantage['estimate'])} "
                f"({text.against_best(advantage, tied=row['in_tied_group'], alone=alone)})"
                if advantage
                else "–"
            ),
            Text(text.duration(row["train_sec"])),
        )
    if len(judged) > _ROWS:
        table.add_row("", Text(f"and {len(judged) - _ROWS} more in report.html", style="dim"))
    return table


def _mark(row: Mapping[str, Any], recommended: str | None) -> str:
    """Return the sign of a row, which says without colours whether it is recommended."""
    if row["name"] == recommended:
        return _RECOMMENDED
    return _GROUPED if row["in_tied_group"] else " "


def _legend(found: Mapping[str, Any]) -> str:
    """Return what the marks and columns of the table mean."""
    name, label = next(iter(text.short_names(found["combinations"]).items()))
    said = ["training: time of one trial, without set-up and evaluation"]
    if label != name:
        said.insert(0, f"all with {name.removesuffix(label).removesuffix(' + ')}")
    if found["tied_group"]:
        what = "better than each of the others" if found["state"] == "better" else "may be the best"
        said.insert(0, f"{_RECOMMENDED} recommended; {_GROUPED} {what}")
    return "; ".join(said)
