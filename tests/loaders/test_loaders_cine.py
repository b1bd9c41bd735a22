"""Cine loops: the axes of a store, and every form that a loop comes in."""

from dataclasses import replace

import pytest

from loaders.cases import Meta
from loaders.layout import content_hash, meta_from_json, meta_to_json

# content_hash() of a_meta(), as the version before axes gave it.
HASH_BEFORE_AXES = "cba4907e34681ecaa133c4cca3b1d776faac629cae68f2dbbfcde13c178957fe"


def a_meta(**changes: object) -> Meta:
    base = Meta(
        kind="cine",
        name="loops",
        task="classification",
        dims=3,
        channels=("intensity",),
        classes=("still", "moving"),
        regions={},
        positive=1,
        normalize="train",
        fill=0.0,
        unit="video",
        group_source="case",
        source="",
        licence="",
        options={},
    )
    return replace(base, **changes)


# ---- the axes of a store ----------------------------------------------------------------------


def test_axes_follow_the_dims_unless_they_are_given() -> None:
    assert a_meta().axes == "zyx"
    assert a_meta(dims=2).axes == "yx"
    assert a_meta(axes="tyx").axes == "tyx"
    with pytest.raises(ValueError, match="axes is 'tyx'; it is yx"):
        a_meta(dims=2, axes="tyx")
    with pytest.raises(ValueError, match="axes is 'xyz'; it is zyx or tyx"):
        a_meta(axes="xyz")


def test_a_store_from_before_there_were_axes_still_opens_with_the_same_hash() -> None:
    assert "axes" not in meta_to_json(a_meta())  # so no hash or fingerprint of theirs changes
    assert meta_from_json(meta_to_json(a_meta())).axes == "zyx"
    assert meta_from_json(meta_to_json(a_meta(axes="tyx"))).axes == "tyx"
    assert content_hash(a_meta(), ["a", "b"], ["1", "1"]) == HASH_BEFORE_AXES
    assert content_hash(a_meta(axes="tyx"), ["a", "b"], ["1", "1"]) != HASH_BEFORE_AXES
