"""A published study's numbers stand beside those of ours that count the same."""

from typing import Any

import pytest

from results.report.published import beside_paper


def line(metric: str, unit: str, **more: str) -> dict[str, Any]:
    return {
        "metric": metric,
        "unit": unit,
        "region": "mean",
        "stratum": "",
        "degradation": "",
        "mean": 0.5,
    } | more


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
    rows = [line(metric, other) for other in others]
    rows += [
        line(metric, unit),
        line(metric, unit, stratum="small"),
        line(metric, unit, region="a"),
    ]
    found = beside_paper(task, rows)
    assert found is not None
    assert [(row["unit"], row["region"], row["stratum"]) for row in found["lines"]] == [
        (unit, "mean", "")
    ]
