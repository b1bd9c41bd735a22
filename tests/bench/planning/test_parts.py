"""Rare findings: folds that hold them, and what is told or refused where they cannot."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from bench.core.processes import World
from bench.core.references import StudyError
from bench.losses.table import LOSSES
from bench.planning.plan import Plan, resolve
from bench.planning.preflight import fits
from bench.study.schema import parse_study
from bench.training.evaluate import Evaluator
from bench.training.train import make_sampler
from loaders.cases import Case, Item, Kind, Meta, Survey
from loaders.store.write import write_store
from tests.metas import made_meta

CASES = 40


def store_of(folder: Path, held: dict[str, int], spacing: float = 1.0) -> Path:
    """Write a store of 40 cases of 16 x 16 pixels, of which the first so many hold each region."""

    def read(_item: Item, _meta: Meta) -> Iterator[Case]:
        for number in range(CASES):
            image = np.random.default_rng(number).integers(0, 99, (1, 16, 16)).astype(np.uint8)
            mask = np.zeros((16, 16), dtype=np.uint8)
            for label, count in enumerate(held.values(), start=1):
                if number < count:
                    mask[4 * label : 4 * label + 2, 3:5] = label
            yield Case(
                key=f"case {number}",
                group=f"case {number}",
                image=image,
                label=None,
                mask=mask,
                spacing=(spacing,) * 2,
            )

    meta = made_meta(
        kind="rare",
        name="rare",
        task="segmentation",
        classes=("background", *held),
        regions={name: (label,) for label, name in enumerate(held, start=1)},
    )
    kind = Kind(name="rare", summary="", source="", survey=pytest.fail, read=read, options={})
    survey = Survey(meta=meta, items=(Item(key="all", paths=(), extra={}),), rejected=())
    write_store(kind, survey, folder / "store", key=b"test", workers=1, strict=True)
    return folder / "store"


def plan_of(tmp_path: Path, held: dict[str, int], spacing: float = 1.0, more: str = "") -> Plan:
    store_of(tmp_path, held, spacing)
    text = f"""
name: rare
data: [store]
models: [unet_small]
optimizers: [adam]
losses: [ce]
folds: 5
device: cpu
{more}
"""
    return resolve(parse_study(text, "rare"), tmp_path, tmp_path / "runs")


def test_a_lesion_in_8_of_40_cases_is_in_every_part_of_every_fold(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, {"lesion": 8})
    (data,) = plan.sets
    for split in data.splits:
        for part in (split.train, split.inner, split.test):
            assert any(data.store.mask(int(case)).any() for case in part)
    assert list(fits(plan)) == []


def test_a_plan_says_which_parts_hold_none_of_a_region(tmp_path: Path) -> None:
    """Of 3 cases with a lesion each is tested once: 2 of 5 test parts hold none."""
    told = list(fits(plan_of(tmp_path, {"organ": 40, "lesion": 3})))
    assert len(told) == 1
    assert "region lesion is in 3 of 40 cases" in told[0]
    assert " 2 test" in told[0]
    # Of 2 each is tested once; where one is left it is trained on.
    told = list(fits(plan_of(tmp_path / "alone", {"lesion": 2})))
    assert len(told) == 3
    assert "dice has no value on 3 of 5 test parts even if every answer is right" in told[0]
    assert "dice has no value on 2 of 5 inner validation parts" in told[1]
    assert "chosen by false alarms, then by the loss" in told[1]
    assert "(parts without it: 2 inner, 3 test)" in told[2]


@pytest.mark.parametrize(
    ("held", "spacing", "primary"),
    [
        ({"lesion": 0}, 1.0, "dice"),
        ({"lesion": 40}, np.nan, "hd95"),  # the size of a pixel is unknown
        ({"lesion": 40}, 1.0, "auc"),  # every image holds the region
        ({"lesion": 40}, 1.0, "false_alarm"),
    ],
)
def test_a_primary_metric_that_no_part_can_have_is_refused(
    tmp_path: Path, held: dict[str, int], spacing: float, primary: str
) -> None:
    plan = plan_of(tmp_path, held, spacing, f"primary: {{segmentation: {primary}}}")
    with pytest.raises(StudyError, match=f"primary: {primary} has no value on any test part"):
        list(fits(plan))


class Calls(nn.Module):
    """A network that finds label 1 in every voxel, or in none."""

    def __init__(self, label: int) -> None:
        super().__init__()
        self.label = label

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        logits = torch.zeros(len(image), 2, *image.shape[2:])
        logits[:, self.label] = 1.0
        return logits


@pytest.mark.parametrize(("label", "value", "false_alarm"), [(0, None, 0.0), (1, 0.0, 1.0)])
def test_where_no_case_holds_a_region_the_primary_metric_does_not_decide(
    tmp_path: Path, label: int, value: float | None, false_alarm: float
) -> None:
    plan = plan_of(tmp_path, {"lesion": 8})
    (data,), trial = plan.sets, plan.trials[0]
    evaluator = Evaluator(
        trial=trial,
        store=data.store,
        sampler=make_sampler(trial, data, seed=0),
        model=Calls(label),
        criterion=LOSSES["ce"].bind({}),
        weights=None,
        device=torch.device("cpu"),
        world=World(),
    )
    there = data.store.boxes[:, 0, 0, 0] >= 0
    score = evaluator.score(np.flatnonzero(~there)[:4], final=False)
    assert (score.value, score.false_alarm, score.decides) == (value, false_alarm, False)
    score = evaluator.score(np.flatnonzero(there), final=False)
    assert (score.false_alarm, score.decides) == (None, True)
