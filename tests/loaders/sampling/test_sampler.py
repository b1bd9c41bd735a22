"""The stream of samples: pure, the same for all who ask, and cut where the recipe says."""

import hashlib
from collections.abc import Sequence
from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from loaders.sampling.foreground import Foreground
from loaders.sampling.sampler import Draws, Recipe, Sampler, batch_positions

QUICK = settings(max_examples=60, deadline=None)
N = 7
SHAPES = np.array([[20, 24, 28]] * N) + np.arange(N)[:, None]


def a_recipe(**changes: Any) -> Recipe:
    base = {"patch": (8, 8, 8), "scale": 0.1, "shift": 0.2, "foreground": 0.5}
    base |= {"flip": (True,) * len(changes.get("patch", base["patch"]))}
    return Recipe(**{**base, **changes})


EVERYTHING: dict[str, Any] = {
    "translate": 0.3,
    "rotate": (30.0, 20.0, 10.0),
    "zoom": 0.2,
    "noise": 0.1,
    "contrast": 0.25,
    "gamma": 0.5,
    "chance": 0.3,
}


def boxes_of(n: int, *regions: Sequence[Sequence[int]] | None) -> np.ndarray:
    """Return boxes (n, regions, 2, 3): the same for every case; None: an empty region."""
    own = [[[-1] * 3, [-1] * 3] if region is None else region for region in regions]
    return np.array([own] * n).reshape(n, len(own), 2, 3)


BOXES = boxes_of(N, [[10, 10, 10], [13, 13, 13]], None)


def filled(boxes: np.ndarray) -> Foreground:
    """Return the foreground of cases whose k-th region, label k + 1, fills its box."""

    def mask(case: int) -> np.ndarray:
        found = np.zeros(boxes.reshape(-1, 3).max(axis=0) + 1, dtype=np.uint8)
        for label, (low, high) in enumerate(boxes[case], start=1):
            found[tuple(map(slice, np.maximum(low, 0), np.maximum(high, 0)))] = label
        return found

    regions = [(k + 1,) for k in range(boxes.shape[1])]
    return Foreground(mask=mask, boxes=boxes, regions=regions)


def a_sampler(
    *, recipe: Recipe | None = None, boxes: np.ndarray = BOXES, **changes: Any
) -> Sampler:
    base = {
        "cases": np.arange(N),
        "shapes": SHAPES,
        "foreground": filled(boxes) if boxes.size else None,
        "offset": np.full((N, 2), 100.0),
        "unit": np.full((N, 2), 50.0),
        "seed": 3,
    }
    return Sampler(recipe=recipe or a_recipe(), **{**base, **changes})


def columns(draws: Draws) -> list[np.ndarray]:
    return [draws.case, draws.origin, draws.flip, draws.offset, draws.unit, *later(draws)]


def later(draws: Draws) -> list[np.ndarray]:
    """Return what came with the second release."""
    return [draws.matrix, draws.key, draws.noise, draws.contrast, draws.gamma]


def equal(a: Draws, b: Draws) -> bool:
    return all(np.array_equal(x, y) for x, y in zip(columns(a), columns(b), strict=True))


# ---- a pure function of seed and position ----


@given(seed=st.integers(0, 2**40), positions=st.lists(st.integers(0, 200), min_size=1, max_size=30))
@QUICK
def test_a_draw_depends_on_seed_and_position_alone(seed: int, positions: list[int]) -> None:
    whole = a_sampler(seed=seed).draw(np.arange(201))
    asked = a_sampler(seed=seed)
    at = np.array(positions)
    assert equal(asked.draw(at), whole[at])
    # Whatever was drawn before, and one by one.
    assert all(equal(asked.draw(at[k : k + 1]), whole[at[k : k + 1]]) for k in range(len(at)))


@given(sizes=st.lists(st.integers(1, 2 * N + 1), min_size=1, max_size=6))
@QUICK
def test_the_batch_size_does_not_change_the_sequence(sizes: list[int]) -> None:
    sampler = a_sampler()
    ends = np.cumsum(sizes)
    parts = [
        sampler.draw(np.arange(end - size, end)) for size, end in zip(sizes, ends, strict=True)
    ]
    together = a_sampler().draw(np.arange(ends[-1]))
    for k, column in enumerate(columns(together)):
        np.testing.assert_array_equal(np.concatenate([columns(part)[k] for part in parts]), column)


def test_the_cases_of_a_stream_are_those_of_its_samples() -> None:
    sampler = a_sampler()
    positions = np.random.default_rng(0).integers(0, 300, 200)
    assert np.array_equal(sampler.drawn(positions), sampler.draw(positions).case)
    assert np.array_equal(sampler.drawn(positions[:1]), sampler.draw(positions[:1]).case)


def test_every_epoch_is_a_fresh_permutation_of_the_training_part() -> None:
    cases = np.array([1, 4, 5, 6])
    drawn = a_sampler(cases=cases).draw(np.arange(4 * 50)).case.reshape(50, 4)
    assert all(sorted(epoch.tolist()) == [1, 4, 5, 6] for epoch in drawn)
    # 24 orders: 50 draws of them show nearly all.
    assert len({tuple(epoch) for epoch in drawn.tolist()}) > 15


def test_epochs_and_seeds_draw_differently() -> None:
    first, second = (a_sampler().draw(np.arange(N) + N * epoch) for epoch in (0, 1))
    other = a_sampler(seed=4).draw(np.arange(N))
    for a, b in ((first, second), (first, other)):
        assert not np.intersect1d(a.unit, b.unit).size
        assert not np.array_equal(a.flip, b.flip)


def test_what_one_augmentation_draws_does_not_depend_on_the_others() -> None:
    recipe = a_recipe(**EVERYTHING)
    whole = a_sampler(recipe=recipe).draw(np.arange(50))
    # What each turns off, and all that may change with it.
    moves = {"flip": "flip", "scale": "unit offset", "shift": "offset", "foreground": "origin"}
    moves |= {"translate": "origin", "rotate": "matrix", "zoom": "matrix"}
    moves |= {name: name for name in ("noise", "contrast", "gamma")}
    for name, touched in moves.items():
        off = {"flip": (False,) * 3, "rotate": ()}.get(name, 0.0)
        draws = a_sampler(recipe=replace(recipe, **{name: off})).draw(np.arange(50))
        for field in fields(draws):
            same = np.array_equal(getattr(draws, field.name), getattr(whole, field.name))
            assert same == (field.name not in touched.split()), (name, field.name)


# ---- class balance ----


@given(
    labels=st.lists(st.integers(0, 3), min_size=N, max_size=N),
    cases=st.lists(st.integers(0, N - 1), min_size=1, max_size=N, unique=True),
    seed=st.integers(0, 99),
)
@QUICK
def test_balanced_epochs_hold_each_class_as_often(
    labels: list[int], cases: list[int], seed: int
) -> None:
    sampler = a_sampler(cases=np.array(cases), seed=seed, balance=np.array(labels))
    n, present = len(cases), {labels[case] for case in cases}
    drawn = sampler.draw(np.arange(3 * n)).case.reshape(3, n)
    for epoch in drawn.tolist():
        assert set(epoch) <= set(cases)
        counts = [sum(labels[case] == label for case in epoch) for label in present]
        assert sum(counts) == n
        assert max(counts) - min(counts) <= 1


def test_a_balanced_epoch_is_shuffled_and_draws_every_case_of_a_class_alike() -> None:
    """Classes of 1, 2 and 4 cases; 7 samples an epoch are 2 of each class and one more."""
    labels = np.array([0, 1, 1, 2, 2, 2, 2])
    drawn = a_sampler(balance=labels).draw(np.arange(N * 3000)).case
    share = np.bincount(drawn, minlength=N) / len(drawn)
    np.testing.assert_allclose(share, np.array([4, 2, 2, 1, 1, 1, 1]) / 12, atol=0.01)
    place = labels[drawn.reshape(-1, N)]
    for label in range(3):
        np.testing.assert_allclose((place == label).mean(axis=0), 1 / 3, atol=0.03)
    assert not np.array_equal(
        drawn[: 5 * N], a_sampler(seed=4, balance=labels).draw(np.arange(35)).case
    )


def test_balance_changes_which_case_is_taken_and_nothing_else() -> None:
    recipe = a_recipe(foreground=0.0)
    plain = a_sampler(recipe=recipe).draw(np.arange(50))
    balanced = a_sampler(recipe=recipe, balance=np.arange(N) % 2).draw(np.arange(50))
    assert not np.array_equal(plain.case, balanced.case)
    for a, b in zip(columns(plain)[2:], columns(balanced)[2:], strict=True):
        np.testing.assert_array_equal(a, b)


# ---- augmentation ----


def test_centre_and_spread_are_scale_and_shift_of_the_normalised_image() -> None:
    mean = np.array([[100.0, -40.0]] * N)
    std = np.array([[50.0, 8.0]] * N)
    draws = a_sampler(offset=mean, unit=std).draw(np.arange(3000))
    # (raw - offset) / unit = (raw - mean) / std * scale + shift.
    scale = std[0] / draws.unit
    shift = (mean[0] - draws.offset) / draws.unit
    for values, centre, reach in ((scale, 1.0, 0.1), (shift, 0.0, 0.2)):
        assert (np.abs(values - centre) <= reach * 1.0001).all()
        # Uniform: reaches both ends, and its standard deviation is reach / sqrt(3).
        np.testing.assert_allclose(values.max(axis=0), centre + reach, atol=0.01 * reach)
        np.testing.assert_allclose(values.min(axis=0), centre - reach, atol=0.01 * reach)
        np.testing.assert_allclose(values.std(axis=0), reach / np.sqrt(3), rtol=0.05)
    assert abs(np.corrcoef(scale.T)[0, 1]) < 0.1, "channels are drawn by themselves"
    assert draws.offset.dtype == draws.unit.dtype == np.float32


def test_flips_are_fair_and_independent_and_can_be_turned_off() -> None:
    flips = a_sampler().draw(np.arange(4000)).flip
    np.testing.assert_allclose(flips.mean(axis=0), 0.5, atol=0.03)
    assert np.abs(np.corrcoef(flips.T) - np.eye(3)).max() < 0.05
    for turned in ((False, False, False), (True, False, True)):
        some = a_sampler(recipe=a_recipe(flip=turned)).draw(np.arange(4000)).flip
        np.testing.assert_array_equal(some, flips & np.array(turned))


@pytest.mark.parametrize(
    ("foreground", "known"),
    # Those on foreground are from numerics 4 on: a voxel of it, not a point in its box.
    [(0.0, "6babdab7f4c265be"), (0.5, "631e3a0df2037bc6")],
)
def test_samples_are_those_of_the_first_release(foreground: float, known: str) -> None:
    """A study taken up again with a later version goes on with the same samples."""
    digest = hashlib.sha256()
    sampler = a_sampler(recipe=a_recipe(foreground=foreground))
    for column in columns(sampler.draw(np.arange(200)))[:5]:
        digest.update(np.ascontiguousarray(column))
    assert digest.hexdigest().startswith(known)


def test_by_default_nothing_is_moved_turned_or_altered() -> None:
    draws = a_sampler().draw(np.arange(50))
    assert not draws.warped.any()
    np.testing.assert_array_equal(draws.matrix, np.tile(np.eye(3), (50, 1, 1)))
    assert not draws.noise.any()
    assert (draws.contrast == 1).all()
    assert (draws.gamma == 1).all()


def test_each_augmentation_falls_to_the_share_of_samples_asked_for_by_itself() -> None:
    draws = a_sampler(recipe=a_recipe(**EVERYTHING)).draw(np.arange(4000))
    volume = np.linalg.det(draws.matrix)
    turned = np.abs(draws.matrix / np.cbrt(volume)[:, None, None] - np.eye(3)).max((1, 2)) > 1e-9
    zoomed = np.abs(volume - 1) > 1e-9
    fell = np.stack(
        [turned, zoomed, draws.noise > 0, draws.contrast[:, 0] != 1, draws.gamma[:, 0] != 1]
    )
    np.testing.assert_allclose(fell.mean(axis=1), 0.3, atol=0.03)
    assert np.abs(np.corrcoef(fell) - np.eye(5)).max() < 0.06
    np.testing.assert_array_equal(draws.warped, turned | zoomed)
    always = a_sampler(recipe=a_recipe(**{**EVERYTHING, "chance": 1.0})).draw(np.arange(400))
    assert always.warped.all()
    assert (
        not a_sampler(recipe=a_recipe(**{**EVERYTHING, "chance": 0.0}))
        .draw(np.arange(400))
        .warped.any()
    )


def test_strengths_fill_their_range() -> None:
    draws = a_sampler(recipe=a_recipe(**{**EVERYTHING, "chance": 1.0})).draw(np.arange(4000))
    zoom = 1 / np.cbrt(np.linalg.det(draws.matrix))
    for values, low, high in (
        (zoom, 0.8, 1.2),
        (draws.noise, 0.0, 0.1),
        (draws.contrast[:, 0], 0.75, 1.25),
        (np.log(draws.gamma[:, 1]), -np.log(1.5), np.log(1.5)),
    ):
        assert values.min() >= low - 1e-6
        assert values.max() <= high + 1e-6
        # Uniform, along the logarithm in gamma.
        np.testing.assert_allclose(values.mean(), (low + high) / 2, atol=0.02 * (high - low))
        np.testing.assert_allclose(values.std(), (high - low) / np.sqrt(12), rtol=0.05)
    assert abs(np.corrcoef(draws.gamma.T)[0, 1]) < 0.06, "channels are drawn by themselves"


def test_rotations_are_those_of_scipy_about_the_three_axes() -> None:
    recipe = a_recipe(rotate=(30.0, 20.0, 10.0), chance=1.0)
    matrix = a_sampler(recipe=recipe).draw(np.arange(2000)).matrix
    # Rotation's "XYZ": about the first axis, then the turned second, then the turned third.
    angles = Rotation.from_matrix(matrix).as_euler("XYZ", degrees=True)
    limits = np.array([30.0, 20.0, 10.0])
    assert (np.abs(angles) <= limits + 1e-9).all()
    np.testing.assert_allclose(angles.std(axis=0), limits / np.sqrt(3), rtol=0.05)
    np.testing.assert_allclose(Rotation.from_euler("XYZ", angles, degrees=True).as_matrix(), matrix)


def test_a_rotation_about_one_axis_leaves_that_axis_alone() -> None:
    recipe = a_recipe(rotate=(90.0, 0.0, 0.0), chance=1.0)
    matrix = a_sampler(recipe=recipe).draw(np.arange(20)).matrix
    np.testing.assert_array_equal(matrix[:, 0], [[1, 0, 0]] * 20)
    np.testing.assert_array_equal(matrix[:, :, 0], [[1, 0, 0]] * 20)


def test_voxels_that_are_no_cubes_are_turned_as_the_body_is() -> None:
    spacing = np.tile([5.0, 0.5, 1.0], (N, 1))
    spacing[3] = np.nan
    recipe = a_recipe(rotate=(30.0, 20.0, 10.0), chance=1.0)
    draws = a_sampler(recipe=recipe, spacing=spacing).draw(np.arange(70))
    cubes = a_sampler(recipe=recipe).draw(np.arange(70))
    for case, matrix, rotation in zip(draws.case, draws.matrix, cubes.matrix, strict=True):
        size = np.ones(3) if case == 3 else spacing[case]
        # An offset in voxels, in millimetres, turned, is the turned offset in millimetres.
        offset = np.array([1.0, -2.0, 3.0])
        np.testing.assert_allclose(size * (matrix @ offset), rotation @ (size * offset))


def test_a_translation_is_a_whole_number_of_voxels_up_to_its_share_of_the_side() -> None:
    recipe = a_recipe(translate=0.5, patch=(8, 6, 9))
    still = a_sampler(recipe=replace(recipe, translate=0.0)).draw(np.arange(3000))
    moved = a_sampler(recipe=recipe).draw(np.arange(3000)).origin - still.origin
    assert np.abs(moved).max(axis=0).tolist() == [4, 3, 4]
    np.testing.assert_allclose(moved.mean(axis=0), 0, atol=0.15)
    assert np.abs(np.corrcoef(moved.T) - np.eye(3)).max() < 0.06


def test_in_the_plane_there_is_one_angle() -> None:
    shapes = SHAPES[:, :2]
    recipe = a_recipe(patch=(8, 8), rotate=(180.0,), zoom=0.3, chance=1.0)
    draws = a_sampler(shapes=shapes, foreground=None, recipe=recipe).draw(np.arange(500))
    zoom = 1 / np.sqrt(np.linalg.det(draws.matrix))
    angle = np.arctan2(draws.matrix[:, 1, 0], draws.matrix[:, 0, 0])
    wanted = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]) / zoom
    np.testing.assert_allclose(draws.matrix, np.moveaxis(wanted, -1, 0), atol=1e-12)
    assert angle.max() > 3
    assert angle.min() < -3


# ---- where patches lie ----


@given(
    shape=st.tuples(*[st.integers(1, 12)] * 3),
    patch=st.tuples(*[st.integers(1, 12)] * 3),
    foreground=st.sampled_from([0.0, 0.5, 1.0]),
    corner=st.tuples(*[st.integers(0, 11)] * 3),
)
@QUICK
def test_a_patch_lies_inside_or_is_centred(
    shape: tuple[int, ...], patch: tuple[int, ...], foreground: float, corner: tuple[int, ...]
) -> None:
    low = [min(c, s - 1) for c, s in zip(corner, shape, strict=True)]
    sampler = a_sampler(
        shapes=np.array([shape] * N),
        boxes=boxes_of(N, [low, [v + 1 for v in low]]),
        recipe=a_recipe(patch=patch, foreground=foreground),
    )
    for draws in (sampler.draw(np.arange(40)), sampler.centre(np.arange(N))):
        end = draws.origin + patch
        for axis, (size, side) in enumerate(zip(shape, patch, strict=True)):
            before, after = draws.origin[:, axis], size - end[:, axis]
            if side <= size:
                assert (before >= 0).all()
                assert (after >= 0).all()
            else:
                # As much padding on both sides, to one voxel.
                assert (np.abs(before - after) <= 1).all()
                assert (before <= 0).all()
                assert (after <= 0).all()


def test_random_patches_reach_every_place_alike() -> None:
    shapes = np.array([[10, 24, 28]] * N)
    recipe = a_recipe(patch=(8, 8, 28), foreground=0.0)
    origin = a_sampler(shapes=shapes, recipe=recipe).draw(np.arange(6000)).origin
    assert set(origin[:, 2].tolist()) == {0}
    for axis, places in ((0, 3), (1, 17)):
        share = np.bincount(origin[:, axis], minlength=places) / len(origin)
        np.testing.assert_allclose(share, 1 / places, atol=0.02)


def test_the_asked_share_of_patches_is_centred_on_foreground() -> None:
    box = np.array([[10, 10, 10], [13, 13, 13]])
    for share in (0.0, 0.3, 1.0):
        draws = a_sampler(recipe=a_recipe(foreground=share)).draw(np.arange(4000))
        centre = draws.origin + 4
        on = ((centre >= box[0]) & (centre < box[1])).all(axis=1).mean()
        # A random patch hits the box by chance: 27 of at least 13 * 17 * 21 places.
        assert on == pytest.approx(share, abs=0.03)
        if share == 1.0:
            for axis in range(3):
                found = np.bincount(centre[:, axis])[10:13] / len(centre)
                np.testing.assert_allclose(found, 1 / 3, atol=0.03)


def test_each_region_with_foreground_is_taken_as_often() -> None:
    """A small core beside a large whole; an empty region is never taken."""
    boxes = boxes_of(N, None, [[8, 8, 8], [9, 9, 9]], None, [[14, 14, 14], [15, 15, 15]])
    recipe = a_recipe(foreground=1.0)
    centre = a_sampler(boxes=boxes, recipe=recipe).draw(np.arange(2000)).origin + 4
    places, counts = np.unique(centre, axis=0, return_counts=True)
    assert places.tolist() == [[8, 8, 8], [14, 14, 14]]
    np.testing.assert_allclose(counts / 2000, 0.5, atol=0.05)


def lesions(shape: tuple[int, ...], *blocks: Sequence[int], side: int = 2) -> np.ndarray:
    """Return a label map with the k-th block, of label k + 1, at these corners."""
    mask = np.zeros(shape, dtype=np.uint8)
    for label, corner in enumerate(blocks, start=1):
        mask[tuple(slice(at, at + side) for at in corner)] = label
    return mask


def of_masks(masks: Sequence[np.ndarray], regions: Sequence[tuple[int, ...]]) -> Foreground:
    """Return the foreground of cases with these masks, their boxes by np.argwhere."""
    d = masks[0].ndim
    boxes = np.full((len(masks), len(regions), 2, d), -1)
    for case, mask in enumerate(masks):
        for row, labels in enumerate(regions):
            found = np.argwhere(np.isin(mask, labels))
            if len(found):
                boxes[case, row] = found.min(axis=0), found.max(axis=0) + 1
    return Foreground(mask=lambda case: masks[case], boxes=boxes, regions=regions)


@pytest.mark.parametrize(
    ("translate", "shape"), [(0.0, (40,) * 3), (0.9, (40,) * 3), (0.9, (5, 40, 40))]
)
def test_a_patch_on_foreground_holds_some_where_two_lesions_lie_far_apart(
    translate: float, shape: tuple[int, ...]
) -> None:
    """The box around both is nearly the image; a patch somewhere in it holds nothing."""
    mask = lesions(shape, (1, 2, 3), (2, 36, 33))
    sampler = a_sampler(
        shapes=np.array([shape] * N),
        foreground=of_masks([mask] * N, [(1, 2)]),
        recipe=a_recipe(foreground=1.0, translate=translate),
    )
    padded = np.pad(mask, 20)
    hit = {1: 0, 2: 0}
    for origin in sampler.draw(np.arange(300)).origin:
        patch = padded[tuple(slice(at + 20, at + 28) for at in origin)]
        assert patch.any()
        for label in np.unique(patch[patch > 0]).tolist():
            hit[label] += 1
    assert min(hit.values()) > 100  # each of the two


def test_every_voxel_of_a_drawn_region_is_as_likely() -> None:
    """Against all voxels by np.argwhere: of region 0 labels 1 and 3, of region 1 label 2."""
    rng = np.random.default_rng(0)
    mask = rng.integers(0, 4, (9, 7, 6)).astype(np.uint8) * (rng.random((9, 7, 6)) < 0.2)
    regions = [(1, 3), (2,), (9,)]
    sampler = a_sampler(
        shapes=np.array([mask.shape] * N),
        foreground=of_masks([mask] * N, regions),
        recipe=a_recipe(patch=(1, 1, 1), foreground=1.0),
    )
    n = 40000
    places, counts = np.unique(sampler.draw(np.arange(n)).origin, axis=0, return_counts=True)
    wanted = {}
    for labels in regions[:2]:  # the third is empty, and never drawn
        voxels = np.argwhere(np.isin(mask, labels))
        wanted |= {tuple(voxel): 1 / 2 / len(voxels) for voxel in voxels.tolist()}
    assert {tuple(place) for place in places.tolist()} == set(wanted)
    expected = n * np.array([wanted[tuple(place)] for place in places.tolist()])
    # Chi-squared over its degrees of freedom: 1 with a deviation of sqrt(2 / their number).
    assert ((counts - expected) ** 2 / expected).mean() < 1 + 4 * np.sqrt(2 / len(counts))


def test_in_the_plane_too_a_foreground_voxel_is_drawn() -> None:
    mask = lesions((30, 40), (2, 3), (25, 35), side=1)
    sampler = a_sampler(
        shapes=np.array([mask.shape] * N),
        foreground=of_masks([mask] * N, [(1, 2)]),
        recipe=a_recipe(patch=(1, 1), foreground=1.0),
    )
    origin = sampler.draw(np.arange(100)).origin
    assert np.unique(origin, axis=0).tolist() == [[2, 3], [25, 35]]


def test_a_mask_that_lost_what_its_box_is_around() -> None:
    foreground = Foreground(
        mask=lambda case: np.zeros((20,) * 3, np.uint8), boxes=BOXES, regions=[(1,), (2,)]
    )
    sampler = a_sampler(foreground=foreground, recipe=a_recipe(foreground=1.0))
    with pytest.raises(ValueError, match=r"holds no voxel of region 0, .* run `medopt verify`"):
        sampler.draw(np.arange(1))


def test_a_box_at_the_border_keeps_the_patch_inside_and_the_box_in_it() -> None:
    boxes = boxes_of(N, [[0, 0, 27], [1, 24, 28]])
    recipe = a_recipe(foreground=1.0)
    draws = a_sampler(boxes=boxes, shapes=np.array([[20, 24, 28]] * N), recipe=recipe).draw(
        np.arange(500)
    )
    assert set(draws.origin[:, 0].tolist()) == {0}
    assert set(draws.origin[:, 2].tolist()) == {20}
    assert draws.origin[:, 1].min() == 0
    assert draws.origin[:, 1].max() == 16


@pytest.mark.parametrize("boxes", [boxes_of(N), boxes_of(N, None, None)])
def test_without_foreground_patches_are_random(boxes: np.ndarray) -> None:
    """Classification stores have no region, and healthy cases have empty ones."""
    biased = a_sampler(boxes=boxes, recipe=a_recipe(foreground=1.0)).draw(np.arange(100))
    plain = a_sampler(boxes=boxes, recipe=a_recipe(foreground=0.0)).draw(np.arange(100))
    assert equal(biased, plain)


def test_a_case_has_its_own_box_and_statistics() -> None:
    boxes = np.array([[[[k] * 3, [k + 1] * 3]] for k in range(4, 4 + N)])
    mean = np.arange(2.0 * N).reshape(N, 2)
    recipe = a_recipe(foreground=1.0, scale=0.0, shift=0.0)
    sampler = a_sampler(boxes=boxes, offset=mean, unit=mean + 1, recipe=recipe)
    draws = sampler.draw(np.arange(3 * N))
    np.testing.assert_array_equal(draws.origin, np.tile(draws.case[:, None], 3))
    np.testing.assert_array_equal(draws.offset, mean[draws.case].astype(np.float32))
    np.testing.assert_array_equal(draws.unit, (mean + 1)[draws.case].astype(np.float32))


def test_evaluation_takes_the_centre_and_changes_nothing() -> None:
    mean = np.arange(2.0 * N).reshape(N, 2)
    sampler = a_sampler(offset=mean, unit=mean + 1, shapes=np.array([[9, 8, 5]] * N))
    draws = sampler.centre(np.array([5, 2, 2]))
    assert draws.case.tolist() == [5, 2, 2]
    assert draws.origin.tolist() == [[0, 0, -1]] * 3
    assert not draws.flip.any()
    np.testing.assert_array_equal(draws.offset, mean[[5, 2, 2]].astype(np.float32))
    np.testing.assert_array_equal(draws.unit, (mean + 1)[[5, 2, 2]].astype(np.float32))


# ---- shards ----


def test_ranks_share_each_part_of_a_batch_that_goes_through_in_three() -> None:
    """Of 16 samples the parts are 0-4, 5-9 and 10-15: two ranks have 2 + 3, 2 + 3 and 3 + 3."""
    asked = {"batch_size": 16, "start": 100, "chunks": 3}
    first, second = (batch_positions(1, shard=(rank, 2), **asked) for rank in (0, 1))
    assert first.tolist() == [116, 117, 121, 122, 126, 127, 128]
    assert second.tolist() == [118, 119, 120, 123, 124, 125, 129, 130, 131]
    with pytest.raises(ValueError, match="a batch of 1 leaves nothing for rank 0 of 2"):
        batch_positions(0, batch_size=4, start=0, shard=(0, 2), chunks=3)


@given(batch_size=st.integers(1, 40), world=st.integers(1, 9), start=st.integers(0, 99))
@QUICK
def test_ranks_share_each_global_batch_in_order(batch_size: int, world: int, start: int) -> None:
    if batch_size < world:
        with pytest.raises(ValueError, match="leaves nothing for rank"):
            [
                batch_positions(0, batch_size=batch_size, start=0, shard=(rank, world))
                for rank in range(world)
            ]
        return
    for batch in (0, 3):
        shares = [
            batch_positions(batch, batch_size=batch_size, start=start, shard=(rank, world))
            for rank in range(world)
        ]
        whole = np.arange(batch_size) + start + batch * batch_size
        np.testing.assert_array_equal(np.concatenate(shares), whole)
        assert max(map(len, shares)) - min(map(len, shares)) <= 1


# ---- what is refused ----


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"patch": ()}, "patch"),
        ({"patch": (8, 0, 8)}, "patch"),
        ({"scale": 1.0}, "scale is 1.0; it must be at least 0 and less than 1"),
        ({"scale": -0.1}, "scale"),
        ({"shift": -0.1}, "shift"),
        ({"shift": float("nan")}, "shift"),
        ({"foreground": 1.1}, "foreground"),
        ({"chance": -0.1}, "chance is -0.1; it must be from 0 to 1"),
        ({"zoom": 1.0}, "zoom"),
        ({"translate": 1.0}, "translate"),
        ({"contrast": 1.0}, "contrast"),
        ({"noise": float("inf")}, "noise"),
        ({"gamma": -0.5}, "gamma"),
        ({"rotate": 15.0}, r"rotate is 15.0; it must be a tuple of 3 angles in degrees, or \(\)"),
        ({"rotate": (15.0,)}, "rotate"),
        ({"rotate": (15.0, 0.0, 181.0)}, "from 0 to 180"),
        ({"flip": True}, "flip is True; it must be a tuple of 3"),
        ({"flip": (True, False)}, "flip"),
    ],
)
def test_recipes_that_make_no_sense(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        a_recipe(**change)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"cases": np.array([], dtype=np.int64)}, "no case"),
        ({"shapes": np.array([[9, 9]] * N)}, "patch .* has 3 axes, but the images have 2"),
        ({"unit": np.zeros((N, 2))}, "not above 0"),
        ({"spacing": np.ones((N, 2))}, r"spacing has shape \(7, 2\), but shapes has \(7, 3\)"),
        ({"balance": np.zeros(3, np.int64)}, "balance has 3 labels, but the store has 7 cases"),
    ],
)
def test_samplers_that_cannot_be(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        a_sampler(**change)


@pytest.mark.parametrize(
    "change", [{"shard": (2, 2)}, {"shard": (-1, 2)}, {"start": -1}, {"batch_size": 0}]
)
def test_batches_that_cannot_be(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"shard|start|nothing"):
        batch_positions(0, **{"batch_size": 4, "start": 0, "shard": (0, 1), **change})
