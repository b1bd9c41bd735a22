"""A published study's numbers stand beside those of ours that count the same."""

from typing import Any

import pytest

from results.report.published import published
from results.report.sections.papers import paper
from results.tables.axes import AXES
from results.verdict.combinations import Combination, Contest

STORES = {
    "classification": {"kind": "lidc", "source": "LIDC-IDRI, doi:10.7937/K9", "cases": 9},
    "segmentation": {"kind": "brats", "source": "Baid et al. 2021", "cases": 9},
}
STUDY = {"data": [{"name": "set", "patch": [64, 64]}], "normalize": "range", "stop_on": "loss"}


def line(metric: str, unit: str, mean: float = 0.5, **more: str) -> dict[str, Any]:
    return {
        "metric": metric,
        "unit": unit,
        "region": "mean",
        "stratum": "",
        "degradation": "",
        "convention": "",
        "mean": mean,
    } | more


class Run:
    study = STUDY


def combination(**entries: str) -> Combination:
    row = {"status": "ok", "test_score": 0.8, "val_score": 0.8, "repeat": 0, "fold": 0, "seed": 0}
    row |= {"hparams": '{"lr": 0.001}', "batch_size": 32, "n_train_cases": 9}
    return Combination(
        axes=AXES,
        key=tuple(entries.get(axis.column, "") for axis in AXES),
        trials=(row,),
        expected=1,
        skipped=None,
    )


def contest(task: str, *combinations: Combination) -> Contest:
    return Contest(
        dataset="set",
        task=task,
        metric="auc",
        described={},
        unit=None,
        bounds=(0.0, 1.0),
        sign=1.0,
        ratio=0.25,
        expected=1,
        rows=tuple(row for c in combinations for row in c.trials),
        combinations=combinations,
    )


def beside(task: str, rows: list[dict[str, Any]], data: dict[str, Any]) -> dict[str, Any] | None:
    """Return the section where the study has neither before nor after."""
    return paper(Run, contest(task), data, ("unet + adam + ce", rows), lambda _: rows)


@pytest.mark.parametrize(
    ("task", "unit", "others"),
    [
        ("classification", "lesion", ["patient"]),
        ("classification", "image", ["patient"]),
        ("segmentation", "voxel", ["image", "lesion", "patient"]),
        ("segmentation", "case", ["image", "lesion", "patient"]),
    ],
)
def test_other_units_regions_and_strata_are_left_out(task, unit, others):
    metric = "dice" if unit == "case" else "sensitivity"
    rows = [line(metric, other, 0.1) for other in others]
    rows += [
        line(metric, unit, 0.7),
        line(metric, unit, 0.2, stratum="small"),
        line(metric, unit, 0.3, region="a"),
        line(metric, unit, 0.4, degradation="noise"),
    ]
    found = beside(task, rows, STORES[task])
    assert found is not None
    assert [row["ours"] for row in found["lines"]] == [[0.7]]
    assert found["names"] == {"here": "unet + adam + ce"}
    assert (found["bars"], found["flows"]) == ([], [])


@pytest.mark.parametrize(
    "data",
    [
        {"kind": "medmnist", "source": "Yang et al. 2023"},
        {"kind": "brats", "source": "Baid et al. 2021"},
        {"kind": "lidc", "source": "phantom images in the format of lidc, of no patient"},
        {},  # a run made before footers said anything of the data
    ],
)
def test_data_of_another_kind_are_not_set_beside_it(data):
    assert beside("classification", [line("sensitivity", "lesion")], data) is None


def test_before_and_after_stand_beside_before_and_after():
    """The figures of paper A's table; bars in percent of 1; the recipes as they were run."""
    before = combination(model="plain_cnn", optimizer="adam", loss="ce")
    after = combination(
        model="resnet18", optimizer="adam", loss="dice_focal", regularizer="augmentation"
    )
    between = combination(model="resnet18", optimizer="adam", loss="ce")
    means = {before.name: 0.6, after.name: 0.75, between.name: 0.1}

    def lines_of(c: Combination) -> list[dict[str, Any]]:
        return [line(m, "image", means[c.name]) for m in ("accuracy", "f1", "auc")]

    made = contest("classification", between, before, after)
    found = paper(Run, made, STORES["classification"], ("x", []), lines_of)
    assert found is not None
    assert [(row["metric"], row["ours"], row["theirs"]) for row in found["lines"]] == [
        ("accuracy", [0.6, 0.75], [0.896, 0.952]),
        ("dice", [0.6, 0.75], [0.812, 0.894]),
    ]
    assert [bar["width"] for bar in found["bars"][:4]] == [60.0, 75.0, 89.6, 95.2]
    assert [flow["title"] for flow in found["flows"]] == [
        "here, before",
        "here, after",
        "Xue, before",
        "Xue, after",
    ]
    steps = found["flows"][1]["steps"]
    assert steps == [
        "9 cases of set",
        "patches of 64 × 64",
        "intensities: range",
        "augmentation: augmentation",
        "resnet18",
        "loss: dice_focal",
        "adam, rate 0.001, batch 32",
        "stop after 10 looks without a better loss",
        "1 fold",
    ]
    assert any("F1" in sentence for sentence in found["differ"])


def test_the_published_table_is_that_of_the_paper():
    """Xue's table in percent, as the project's mission has it."""
    table = {
        "lidc": "89.6 95.2 85.7 93.5 91.0 96.8 81.2 89.4",
        "brats": "87.3 94.1 81.4 91.2 90.2 95.6 76.8 88.5",
    }
    for task, data in STORES.items():
        study = published(task, data)
        figures = [100 * value for pair in study.figures.values() for value in pair]
        assert figures == pytest.approx([float(v) for v in table[data["kind"]].split()])
        assert list(study.figures) == ["accuracy", "sensitivity", "specificity", "dice"]
