"""Every row of the table of degradations, and what each does to an image."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.metrics.degradations import DEGRADATIONS, Degradation

ROWS = [pytest.param(row, id=row.name) for row in DEGRADATIONS.values()]


def image(axes: str = "yx", side: int = 24) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(2, *[side] * len(axes))).astype(np.float32)


def spoil(row: Degradation, pixels: np.ndarray, axes: str, **given: float) -> np.ndarray:
    return row.function(pixels, np.random.default_rng(1), axes, **row.settings(given))


@pytest.mark.parametrize("row", ROWS)
@pytest.mark.parametrize("axes", ["yx", "zyx", "tyx"])
def test_shape_and_type_are_kept_and_the_image_is_changed(row: Degradation, axes: str) -> None:
    assert row.summary
    assert row.source
    pixels = image(axes)
    before = pixels.copy()
    worse = spoil(row, pixels, axes)
    assert worse.shape == pixels.shape
    assert worse.dtype == np.float32
    assert np.array_equal(pixels, before)
    assert not np.allclose(worse, pixels)
    assert np.array_equal(worse, spoil(row, pixels, axes))


@settings(max_examples=40, deadline=None)
@given(sides=st.tuples(st.integers(1, 33), st.integers(1, 33)), factor=st.floats(1.1, 6))
def test_resolution_is_lost_whatever_the_shape(sides: tuple[int, int], factor: float) -> None:
    pixels = np.ones((1, *sides), dtype=np.float32)
    worse = spoil(DEGRADATIONS["low_resolution"], pixels, "yx", factor=factor)
    assert worse.shape == pixels.shape
    np.testing.assert_allclose(worse, 1, rtol=1e-5)


@pytest.mark.parametrize("row", ROWS[1:])
def test_frames_of_a_clip_are_worsened_each_by_itself(row: Degradation) -> None:
    clip = image("tyx", 12)
    worse = spoil(row, clip, "tyx")
    for t in range(12):
        np.testing.assert_allclose(worse[:, t], spoil(row, clip[:, t], "yx"), rtol=1e-5, atol=1e-6)


def test_noise_has_the_deviation_asked_for() -> None:
    pixels = np.zeros((1, 200, 200), dtype=np.float32)
    worse = spoil(DEGRADATIONS["noise"], pixels, "yx", deviation=0.25)
    assert worse.std() == pytest.approx(0.25, rel=0.02)


def test_blur_widens_a_point_as_asked() -> None:
    pixels = np.zeros((1, 41, 41), dtype=np.float32)
    pixels[0, 20, 20] = 1
    worse = spoil(DEGRADATIONS["blur"], pixels, "yx", width=2.0)[0].astype(float)
    assert worse.sum() == pytest.approx(1, rel=1e-3)
    offset = np.arange(41) - 20
    assert (worse.sum(0) * offset**2).sum() == pytest.approx(4, rel=0.02)


@pytest.mark.parametrize(
    ("value", "said"), [(0.0, "must be above 0"), (-1.0, "must lie between 0 and 100")]
)
def test_a_strength_is_above_nothing(value: float, said: str) -> None:
    with pytest.raises(ValueError, match=rf"noise\.deviation {said}"):
        DEGRADATIONS["noise"].settings({"deviation": value})
