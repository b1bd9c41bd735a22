"""What would fail every trial of a combination, or tell nothing, tried before anything runs."""

from collections.abc import Iterator

from bench.planning.parts import tell_apart
from bench.planning.plan import Plan
from bench.study.components import Combination
from bench.training.networks import build_model
from bench.training.transfer import LayerGroups, load_weights


def fits(plan: Plan) -> Iterator[str]:
    """Say of each model and its pretrained weights what of them it takes, and what folds lack.

    Raises StudyError where they do not fit, a stage that is to be frozen is none, or the primary
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
