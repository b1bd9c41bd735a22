"""Every row of the table of regularizers: what it sets, and where it cannot."""

from pathlib import Path

import pytest

from bench.losses.table import LOSSES
from bench.optimizers.table import OPTIMIZERS
from bench.study.choice import Choice
from bench.study.components import Combination
from bench.study.regularizers import PARTS, REGULARIZERS, Regularizer
from bench.study.schema import Augment
from models.table import MODELS
from tests.trials import PLAIN

NEWCOMER = Regularizer(
    name="newcomer",
    sets={"loss.gamma": "focus", "augment.scale": "contrast"},
    defaults={"focus": 3.0, "contrast": 0.4},
    summary="made by a test",
    source="none",
)
ROWS = [pytest.param(row, id=row.name) for row in (*REGULARIZERS.values(), NEWCOMER)]
TRIAL = {"stops", "mixup", "balance"}


def test_every_row_is_filed_under_its_name() -> None:
    assert all(name == row.name for name, row in REGULARIZERS.items())


@pytest.mark.parametrize("row", ROWS)
def test_rows_set_what_is_there_to_set(row: Regularizer) -> None:
    assert row.summary
    assert row.source
    assert set(row.sets.values()) == set(row.defaults)
    tables = {
        "model": [m.settings for m in MODELS.values()],
        "optimizer": [o.defaults for o in OPTIMIZERS.values()],
        "loss": [f.defaults for f in LOSSES.values()],
        "augment": [Augment.model_fields],
        "trial": [dict.fromkeys(TRIAL)],
    }
    for part in PARTS:
        fits = [row.unfit(part, "x", fields) is None for fields in tables[part]]
        assert any(fits), f"nothing can take what {row.name} sets of the {part}"
    assert {target.partition(".")[0] for target in row.sets} <= set(PARTS)


def test_a_row_that_lacks_the_setting_is_told() -> None:
    row = REGULARIZERS["weight_decay"]
    usual = {"weight_decay": 2.0}
    assert row.changes("optimizer", {"factor": 3.0}, usual) == {"weight_decay": 6.0}
    assert row.changes("loss", {}, {}) == {}
    assert row.unfit("optimizer", "adam", OPTIMIZERS["adam"].defaults) is None
    reason = row.unfit("optimizer", "lbfgs", OPTIMIZERS["lbfgs"].defaults)
    assert reason is not None
    for part in ("weight_decay", "lbfgs has no such setting", "history_size"):
        assert part in reason


def decay_of(optimizer: Choice, regularizer: Choice) -> float:
    """Return the weight decay that a combination trains with."""
    choices = {
        **PLAIN,
        "model": Choice(name="plain_cnn"),
        "loss": Choice(name="ce"),
        "optimizer": optimizer,
        "regularizer": regularizer,
    }
    return Combination(choices=choices, base=Path()).optimizer.settings["weight_decay"]


DECAYING = sorted(name for name, row in OPTIMIZERS.items() if "weight_decay" in row.defaults)


@pytest.mark.parametrize("name", DECAYING)
def test_weight_decay_multiplies_each_rows_own_and_lowers_none(name: str) -> None:
    own = decay_of(Choice(name=name), Choice(name="none"))
    more = decay_of(Choice(name=name), Choice(name="weight_decay"))
    assert own == OPTIMIZERS[name].defaults["weight_decay"]
    assert more == pytest.approx(10 * own) if own else more > 0
    free = decay_of(Choice(name=name), Choice(name="weight_decay", params={"factor": 0}))
    assert free == 0


@pytest.mark.parametrize(
    ("optimizer", "factor", "found"),
    [
        (Choice(name="adamw"), 10, 0.1),
        (Choice(name="adamw", params={"weight_decay": 0.03}), 2, 0.06),
        (Choice(name="sgd_nesterov"), 10, 3e-4),
        # None of its own, coupled: Krizhevsky et al. 2012.
        (Choice(name="sgd"), 10, 5e-4),
        (Choice(name="adam"), 10, 5e-4),
        (Choice(name="sam", params={"base": "adamw"}), 10, 0.1),
        (Choice(name="sam", params={"base": "adam"}), 10, 5e-4),
        # None of its own, decoupled: a step at its rate shrinks weights by ten times 1e-5.
        (Choice(name="adopt"), 10, 0.1),
        (Choice(name="adopt", params={"lr": 1e-2}), 10, 0.01),
        (Choice(name="schedule_free_adamw"), 10, 0.04),
        (Choice(name="prodigy"), 10, 0.1),
    ],
)
def test_weight_decay_by_hand(optimizer: Choice, factor: float, found: float) -> None:
    chosen = Choice(name="weight_decay", params={"factor": factor})
    assert decay_of(optimizer, chosen) == pytest.approx(found)


@pytest.mark.parametrize(
    ("name", "setting", "most"), [("weight_decay", "factor", "inf"), ("mixup", "alpha", "100")]
)
def test_a_setting_out_of_bounds_is_said(name: str, setting: str, most: str) -> None:
    said = rf"{name}\.{setting} must lie between 0 and {most}, not -1"
    with pytest.raises(ValueError, match=said):
        REGULARIZERS[name].settings({setting: -1})
