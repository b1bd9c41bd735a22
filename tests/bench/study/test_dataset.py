"""What results say of a data set: counted by hand from its arrays."""

import json

import numpy as np
import pytest

from bench.core.references import StudyError
from bench.study.dataset import check_there, described
from results.report.data import about


def test_an_image_set_is_described(small_store):
    store = small_store("classification", 2)
    found = described(store)
    labels = store.labels.tolist()
    assert [(c["name"], c["number"]) for c in found["classes"]] == [
        (name, labels.count(k)) for k, name in enumerate(store.meta.classes)
    ]
    assert found["cases"] == len(labels)
    assert found["groups"] == len(set(store.groups))
    assert found["kind"] == store.meta.kind
    assert found["regions"] == []
    assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_of_a_finding_it_is_told_of_how_many_cases_it_is_not_known(small_store):
    """Of 40 cases every fifth says nothing of the second finding."""
    store = small_store("multilabel", 2)
    found = described(store)["classes"]
    assert [(each["name"], each["unknown"]) for each in found] == [("bright", 0), ("marked", 8)]
    table = about(described(store), (), "multilabel")["table"]
    name, number, unknown, share = table["lines"][1]
    assert (name, number, unknown) == ("marked", int((store.numbers[:, 1] == 1).sum()), 8)
    assert share.startswith(f"{number} of 32: ")


def test_a_volume_set_is_described(small_store):
    store = small_store("segmentation", 3)
    found = described(store)
    masks = [np.asarray(store.mask(i)) for i in range(len(store))]
    voxels = [sum(int((mask == k).sum()) for mask in masks) for k in range(len(found["classes"]))]
    assert [c["number"] for c in found["classes"]] == voxels
    for region in found["regions"]:
        there = sum(bool(np.isin(mask, region["labels"]).any()) for mask in masks)
        assert region["cases"] == there
        assert tuple(region["labels"]) == store.meta.regions[region["name"]]
    sides = np.array([mask.shape for mask in masks])
    assert found["shape"] == [
        [float(side.min()), float(np.median(side)), float(side.max())] for side in sides.T
    ]
    known = np.isfinite(store.spacing).all()
    assert found["spacing"] == ([[1.0] * 3] * 3 if known else [None] * 3)
    assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_a_missing_store_is_made_where_the_study_looks_for_it(tmp_path, monkeypatch):
    """The command is for the working folder, though the entry is relative to the study file."""
    (tmp_path / "studies").mkdir()
    monkeypatch.chdir(tmp_path)
    for base, entry, store in (
        (tmp_path / "studies", "stores/none", "studies/stores/none"),
        (tmp_path / "studies", "../stores/my scans", "'stores/my scans'"),
        (tmp_path, "stores/none", "stores/none"),
        (tmp_path.parent, "elsewhere", str(tmp_path.parent / "elsewhere")),
    ):
        with pytest.raises(StudyError, match="relative to the study file") as error:
            check_there(entry, base)
        assert f"`medopt prepare KIND SOURCE --out {store}`" in str(error.value)
