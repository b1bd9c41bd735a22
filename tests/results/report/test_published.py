"""A published study's numbers stand beside those of ours that count the same."""

from typing import Any

import pytest

from results.report.published import beside_paper

STORES = {
    "classification": {"kind": "lidc", "source": "LIDC-IDRI, doi:10.7937/K9"},
    "segmentation": {"kind": "brats", "source": "Baid et al. 2021"},
}


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
    found = beside_paper(task, rows, STORES[task])
    assert found is not None
    assert [(row["unit"], row["region"], row["stratum"]) for row in found["lines"]] == [
        (unit, "mean", "")
    ]


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
    assert beside_paper("classification", [line("sensitivity", "lesion")], data) is None
