"""Claims that several data sets of one run answer together."""

import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import combinations as pairs_of
from itertools import permutations

import numpy as np

from results.claims.contrasts import (
    Found,
    Lacking,
    Side,
    apart,
    base_name,
    best_of,
    of_folds,
)
from results.claims.kept import Kept
from results.claims.measures import degraded_values, values_of
from results.claims.scores import matched_scores
from results.verdict.combinations import Contest

Answer = Found | Lacking
# Names of data sets that were derived from one by a number: `skin-zeros-90`.
_MADE_ZEROS = re.compile(r"(?P<of>.+)-zeros-(?P<number>\d+)")


def more_zeros(one: Side, other: Side) -> Callable[[Kept], Iterator[Answer]]:
    """Compare a difference of test scores with the most zero entries to that with the fewest.

    Data sets are recognized by name: NAME-zeros-P, with P percent of the entries set to zero.
    """

    def ask(run: Kept) -> Iterator[Answer]:
        families: dict[str, dict[int, Contest]] = {}
        for contest in run.contests:
            if made := _MADE_ZEROS.fullmatch(contest.dataset):
                families.setdefault(made["of"], {})[int(made["number"])] = contest
        for name, shares in families.items():
            if len(shares) < 2:
                yield Lacking(dataset=name, reason="there is only one share of zero entries")
                continue
            least, most = (shares[pick(shares)] for pick in (min, max))
            found = [matched_scores(run, c, one, other) for c in (most, least)]
            lacking = next((f for f in found if isinstance(f, Lacking)), None)
            if lacking or not all(isinstance(f, Found) for f in found):
                yield lacking or Lacking(dataset=name, reason="nothing to compare")
                continue
            high, low = (f for f in found if isinstance(f, Found))
            said = f"{high.compared}, at {max(shares)} % zeros less the same at {min(shares)} %"
            yield apart(high, low, name, said)

    return ask


def by_range(run: Kept) -> Iterator[Answer]:
    """Compare `normalize: range` with `z-score` on one store, by its degraded test images."""
    usual = run.study.get("normalize", "z-score")
    entries = {
        entry.get("name"): (entry.get("content"), entry.get("normalize") or usual)
        for entry in run.study.get("data", ())
        if isinstance(entry, dict)
    }
    for one, other in permutations([c for c in run.contests if c.dataset in entries], 2):
        (content, mine), (same, theirs) = entries[one.dataset], entries[other.dataset]
        if content is None or content != same or (mine, theirs) != ("range", "z-score"):
            continue
        rivals = {c.name: c for c in other.combinations if c.state == "judged"}
        ours, others = degraded_values(run, one), degraded_values(run, other)
        both = [(ours(c), others(rivals[c.name])) for c in one.judged if c.name in rivals]
        folds = [f for f in one.folds if all(f in a and f in b for a, b in both)]
        if not both or len(folds) < len(one.folds):
            yield Lacking(dataset=one.dataset, reason="no test images were degraded (`degrade`)")
            continue
        gaps = [float(np.mean([a[f] - b[f] for a, b in both])) for f in folds]
        yield of_folds(one, gaps, f"range ({one.dataset}) against z-score ({other.dataset})")


def other_best(run: Kept) -> Iterator[Answer]:
    """Ask of two data sets whether one optimizer leads on the one and another on the other.

    One optimizer is before another on one set and behind it on the other (Gail and Simon 1985,
    Biometrics 41: a qualitative interaction). The estimate is the smaller of the two leads, for the
    pair for which it is most certain. Its p-value is the larger of the two, times the number of
    pairs and directions considered. Sets derived from one by a number (`skin-50`, `skin-zeros-90`)
    are the same data.
    """
    for one, other in pairs_of([c for c in run.contests if len(c.folds) > 1], 2):
        if one.metric != other.metric or _stem(one.dataset) == _stem(other.dataset):
            continue
        scores = [best_of(c, values_of(c), "optimizer") for c in (one, other)]
        common = [name for name in scores[0] if name in scores[1]]
        name = f"{one.dataset} and {other.dataset}"
        if len(common) < 2:
            yield Lacking(dataset=name, reason="fewer than two optimizers were judged on both")
            continue
        looked = list(permutations(common, 2))
        found: list[tuple[float, Found, tuple[str, str]]] = []
        for first, second in looked:
            leads = []
            for contest, values, (a, b) in (
                (one, scores[0], (first, second)),
                (other, scores[1], (second, first)),
            ):
                gaps = [values[a][f] - values[b][f] for f in contest.folds]
                lead = of_folds(contest, gaps, "")
                if isinstance(lead, Found):
                    leads.append(lead)
            least = max(leads, key=lambda lead: lead.p_above(0))
            found.append((least.p_above(0), least, (first, second)))
        p, least, (first, second) = min(found, key=lambda each: each[0])
        before = f"{base_name(first)} before {base_name(second)}"
        said = f"{before} on {one.dataset}, behind on {other.dataset}"
        counted = min(p * len(looked), 1.0)
        yield replace(least, dataset=name, compared=said, p_value=counted)


def _stem(dataset: str) -> str:
    return re.sub(r"(-zeros)?-\d+$", "", dataset)
