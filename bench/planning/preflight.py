"""Checks, before anything runs, for what would fail all trials of a combination or be useless."""

from collections.abc import Iterator

from bench.planning.parts import tell_apart
from bench.planning.plan import Plan
from bench.study.components import Combination
from bench.training.networks import build_model
from bench.training.transfer import LayerGroups, load_weights


def fits(plan: Plan) -> Iterator[str]:
    """Say how much of its pretrained weights each model takes, and what the folds lack.

    Raises StudyError if weights do not fit, if a stage to freeze does not exist, or if the primary
    metric has no value anywhere.
    """
    yield from tell_apart(plan)
    seen: set[tuple[str, str]] = set()
    for trial in plan.trials:
        name = trial.choices["model"].label
        if trial.start is None or (name, trial.start.label) in seen:
            continue
        seen.add((name, trial.start.label))
        model = Combination(choices=trial.choices, base=plan.base).model
        network = build_model(model, plan.data(trial.dataset).path, trial.patch)
        match = load_weights(network, model.row, trial.start)
        LayerGroups(network, model.row, trial.start)
        yield f"{name} starts from {trial.start.label}: {match}"
