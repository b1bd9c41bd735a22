"""Every row of the table of regularizers: what it sets, and where it cannot."""

import pytest

from bench.losses.table import LOSSES
from bench.optimizers.table import OPTIMIZERS
from bench.study.regularizers import PARTS, REGULARIZERS, Regularizer
from bench.study.schema import Augment
from models.table import MODELS

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
        "model": [m.options for m in MODELS.values()],
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
    assert row.changes("optimizer", {"rate": 0.01}) == {"weight_decay": 0.01}
    assert row.changes("loss", {}) == {}
    assert row.unfit("optimizer", "adam", OPTIMIZERS["adam"].defaults) is None
    reason = row.unfit("optimizer", "lbfgs", OPTIMIZERS["lbfgs"].defaults)
    assert reason is not None
    for part in ("weight_decay", "lbfgs has no such setting", "history_size"):
        assert part in reason
