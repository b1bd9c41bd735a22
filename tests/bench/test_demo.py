"""The demo's data: phantoms that say so, and hold what its answers come of."""

import numpy as np

from bench import demo
from loaders.store.read import open_store


def test_the_stores_of_the_demo_say_that_they_hold_phantoms(tmp_path, monkeypatch):
    monkeypatch.setattr(demo, "PATIENTS", {"brats": 2})
    monkeypatch.setattr(demo, "MAKERS", {"brats": demo.MAKERS["brats"]})
    demo.make_demo(tmp_path, lambda _said: None)
    meta = open_store(tmp_path / "stores" / "brats").meta
    assert meta.kind == "brats"
    assert meta.source.startswith("phantom images")


def test_weights_of_classes_are_equal_in_ct_and_far_apart_in_mri(tmp_path, monkeypatch):
    """So the demo's two losses are the same on the first by construction, not on the second."""
    monkeypatch.setattr(demo, "PATIENTS", {"brats": 2, "lidc": 3})
    demo.make_demo(tmp_path, lambda _said: None)
    ct, mri = (open_store(tmp_path / "stores" / name) for name in ("lidc", "brats"))
    for group in set(ct.groups):
        own = ct.class_counts[np.array(ct.groups) == group].sum(axis=0)
        assert own[0] == own[1] > 0
    voxels = mri.class_counts.sum(axis=0)
    assert voxels[0] / voxels[1:].max() > 10
