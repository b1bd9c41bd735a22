"""The answers to the papers' claims as the terminal shows them."""

from collections.abc import Iterator

from rich.text import Text

from results import text
from results.claims.answers import Answered, Claims

_STYLES = {"yes": "bold green", "no": "bold red", "undecided": "bold yellow"}


def lines(found: Claims) -> Iterator[Text]:
    """Give the lines to print; names in them are never markup."""
    said = ""
    for answer in found["answered"]:
        if answer["claim"] != said:
            said = answer["claim"]
            yield Text.assemble(
                (f"{answer['paper']}  {answer['sentence']}", "bold"),
                (f"  {answer['measure']}", "dim"),
            )
        yield Text.assemble(
            "   ", (answer["answer"], _STYLES[answer["answer"]]), f"  {in_words(answer, found)}"
        )
    for unanswered in found["unanswered"]:
        yield Text.assemble(
            f"{unanswered['paper']}  {unanswered['sentence']}  ",
            (f"not answered: it needs {unanswered['needs']}", "dim"),
        )
    if found["answered"]:
        yield Text(footnote(found), "dim")


def in_words(answer: Answered, found: Claims) -> str:
    """Return what an answer is based on: the data set, what was compared, the estimate and p."""
    marks = [what for what, so in (("phantom", answer["phantom"]),) if so]
    where = f"{answer['dataset']}{f' ({marks[0]})' if marks else ''}"
    reach = text.interval(answer["low"], answer["high"], found["alpha"])
    return (
        f"{where}: {answer['compared']}, {text.signed(answer['estimate'])} ({reach}; "
        f"p {text.p_value(answer['p_value'])})"
    )


def footnote(found: Claims) -> str:
    """Return what intervals and p-values refer to, and whether the optimizers were tuned."""
    tuned = {answer["tuned"] for answer in found["answered"]}
    how = {
        frozenset({True}): "Every optimizer was tuned.",
        frozenset({False}): "No optimizer was tuned: the answers hold for the rates that were set.",
    }.get(frozenset(tuned), "Not every optimizer was tuned.")
    return (
        f"Each interval is for its answer alone; p-values are adjusted by Holm over the "
        f"{text.count(len(found['answered']), 'answer')}. {how}"
    )
