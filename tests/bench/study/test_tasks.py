"""Every task has its row in each room, and what one room leaves is what the other shows."""

import io

import numpy as np
import pytest
import torch

from bench.metrics.table import METRICS
from bench.metrics.tasks.scoring import Seen
from bench.study.tasks import TASKS
from bench.training.evaluate import EXAMPLES
from bench.training.train import run_trial
from loaders.targets import TARGETS
from results.tables.tasks import TASKS as SHOWN


def one_hot(target: torch.Tensor, classes: int) -> torch.Tensor:
    return 20.0 * torch.nn.functional.one_hot(target.long(), classes).movedim(-1, 0)


# What an answer is -> logits that say it.
RIGHT = {
    "class": one_hot,
    "mask": one_hot,
    "findings": lambda target, _classes: 20 * (2 * target.nan_to_num() - 1),
    "number": lambda target, _classes: target,
}


def test_every_task_has_a_row_in_each_room():
    assert set(TASKS) == set(SHOWN) == set(TARGETS)


@pytest.mark.parametrize("name", TASKS)
def test_a_task_decides_by_a_metric_that_it_has(name):
    assert {TASKS[name].served_by, TASKS[name].networks} <= set(TASKS)
    assert TASKS[name].served_by in METRICS[TASKS[name].primary].tasks


@pytest.mark.parametrize("name", TASKS)
def test_examples_hold_what_the_report_shows(make_trial, name):
    trial, data, base = make_trial(name, epochs=1)
    packed = run_trial(trial, data, base, device=torch.device("cpu")).examples
    examples = np.load(io.BytesIO(packed))
    assert set(examples) == set(SHOWN[name].arrays)
    assert {len(array) for array in examples.values()} == {EXAMPLES}


@pytest.mark.parametrize("name", TASKS)
def test_a_right_answer_scores_best(small_store, name):
    """Logits that say the answer give the best value of the primary metric."""
    store, task = small_store(name, 2), TASKS[name]
    scores = []
    cases = np.arange(len(store))
    for index in cases:
        answer = store.mask(int(index)) if task.windows else store.answers[index]
        target = torch.from_numpy(np.array(answer))
        logits = RIGHT[SHOWN[name].answer](target, len(store.meta.classes))
        seen = Seen(
            store=store,
            cases=np.array([index]),
            pixels=np.array(store.image(int(index)))[None],
            logits=logits[None].float(),
            target=np.array(answer)[None],
            presence=None,
            costly=True,
        )
        scores += task.score(seen)
    metrics, rows = task.rows(store, cases, scores)
    (value,) = (m["value"] for m in metrics if m["metric"] == task.primary and m["headline"])
    row = METRICS[task.primary]
    assert value == row.range[row.higher_is_better]
    assert value == next(
        m["value"]
        for m in task.right(store, cases)
        if m["metric"] == task.primary and m["headline"]
    )
    assert {row["case_id"] for row in rows} == set(store.case_ids)
