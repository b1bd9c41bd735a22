"""A synthetic chest CT: lungs with branching vessels, scars and nodules, in Hounsfield units.

Finding nodules is learnable but not trivial: vessels and scars have the density of nodules, faint
and small nodules are lost in the noise, and the noise has the grain of a scanner's. Lengths are in
mm. Sizes are those of a small chest, which keeps the images small (assumption).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from loaders.phantoms.random_fields import Array, centred_axes, smooth_field, soft_step

# HU, textbook values rounded.
_AIR, _LUNG, _FAT, _MUSCLE, _BLOOD, _BONE = -1000.0, -860.0, -90.0, 45.0, 40.0, 350.0
_SHAPE = (32, 120, 120)


@dataclass(frozen=True, kw_only=True)
class Body:
    """One patient's anatomy without lesions or noise, which a second scan shows again.

    `axes` are the coordinates of the voxels along z, y, x. `tissue` is in HU, `depth` is how deep a
    voxel lies inside the lungs, `vessels` is the distance to the nearest vessel's surface.
    """

    axes: tuple[Array, Array, Array]
    spacing: tuple[float, float, float]
    tissue: Array
    depth: Array
    vessels: Array


@dataclass(frozen=True, kw_only=True)
class Lesion:
    """A lesion that a reader may mark, in a box of voxels whose first one is `origin` (z, y, x).

    `distance` (z, y, x) is to its surface, negative inside; `density` is in HU. `kind` is "nodule"
    or "scar".
    """

    kind: str
    origin: tuple[int, int, int]
    distance: Array
    diameter: float
    density: float


def make_body(random: np.random.Generator) -> Body:
    """Return a chest: soft tissue with a spine, two lungs, and a tree of vessels in each."""
    pixel = float(np.round(random.uniform(0.8, 0.9), 6))
    spacing = (float(random.choice([2.0, 2.25, 2.5])), pixel, pixel)
    axes = centred_axes(_SHAPE, spacing)
    z, y, x = np.ix_(*axes)
    half = _SHAPE[2] * pixel / 2
    width, height = 0.95 * half, random.uniform(0.76, 0.84) * half
    skin = (np.hypot(y / height, x / width) - 1) * height
    tissue = np.where(skin < -3.0, _MUSCLE, _FAT) + 12.0 * smooth_field(random, axes, 5.0)
    tissue += (_BONE - _MUSCLE) * soft_step(np.hypot(y - 0.66 * height, x) - 6.0, 2.0)
    # Two ellipses, wider at the base of the lungs, with a wavy wall.
    base = 0.37 * width * (1.0 - 0.1 * z / axes[0].max())
    sides = [
        (np.hypot((y + 2.0) / (0.78 * height), (x - side * 0.52 * width) / base) - 1) * base
        for side in (-1, 1)
    ]
    wall = np.minimum(*sides) + 1.2 * smooth_field(random, axes, 14.0)
    wall = np.maximum(wall, skin + 6.0)
    lung = _LUNG + 30.0 * y / height + 25.0 * smooth_field(random, axes, 3.0)
    tissue += soft_step(wall, 1.5) * (lung - tissue)
    tissue = _AIR + soft_step(skin, 1.5) * (tissue - _AIR)
    vessels = _vessels(random, axes, spacing, reach=0.8 * width)
    return Body(axes=axes, spacing=spacing, tissue=tissue, depth=-wall, vessels=vessels)


def _vessels(
    random: np.random.Generator,
    axes: tuple[Array, ...],
    spacing: tuple[float, float, float],
    reach: float,
) -> Array:
    """Return the distance to the surface of vessels that branch from each hilum into its lung."""
    pieces: list[tuple[Array, float]] = []
    for side in (-1.0, 1.0):
        for _ in range(7):
            hilum = np.array([random.uniform(-8, 8), random.uniform(-6, 8), side * 0.2 * reach])
            outward = np.array([random.normal(0, 0.8), random.normal(0, 0.8), side])
            pieces += _tree(random, hilum, outward, random.uniform(1.2, 1.9))
    points = np.concatenate([piece for piece, _ in pieces])
    radii = np.concatenate([np.full(len(piece), wide) for piece, wide in pieces])
    low = np.array([axis[0] for axis in axes])
    voxels = np.rint((points - low) / spacing).astype(int)
    inside = ((voxels >= 0) & (voxels < [len(axis) for axis in axes])).all(axis=1)
    radius = np.zeros([len(axis) for axis in axes])
    place = tuple(voxels[inside].T)
    # Where branches cross, the thicker one.
    np.maximum.at(radius, place, radii[inside])
    distance, nearest = ndimage.distance_transform_edt(
        radius == 0, sampling=spacing, return_indices=True
    )
    surface: Array = distance - radius[tuple(nearest)]
    return surface


def _tree(
    random: np.random.Generator, start: Array, direction: Array, radius: float
) -> list[tuple[Array, float]]:
    """Return a vessel and its branches: points (n, 3) 0.6 mm apart, and the radius there.

    Radii obey Murray's law, r^3 = a^3 + b^3.
    """
    pieces = []
    growing = [(start, direction, radius)]
    while growing:
        start, direction, radius = growing.pop()
        direction = direction / np.linalg.norm(direction)
        length = radius * random.uniform(5, 9)
        pieces.append((start + np.outer(np.arange(0.0, length, 0.6), direction), radius))
        share = random.uniform(0.25, 0.75)
        for part in (share, 1 - share):
            thinner = 0.97 * radius * part ** (1 / 3)
            if thinner >= 0.5:
                turn = random.normal(0, 0.45, 3)
                growing.append((start + length * direction, direction + turn, thinner))
    return pieces


def make_lesions(
    body: Body, random: np.random.Generator, *, nodules: int, scars: int
) -> list[Lesion]:
    """Return lesions placed in the lungs, apart from each other; fewer if no more fit.

    Nodules: diameters of 5 to 15 mm, most of them small, lobulated and partly spiculated; two
    thirds solid, the rest faint. Scars: as dense as nodules, far longer than wide.
    """
    z, y, x = np.ix_(*body.axes)
    free = (body.depth > 1.5) & (np.abs(z) < body.axes[0][-1] - 6.0)
    lesions = []
    for kind in ["nodule"] * nodules + ["scar"] * scars:
        places = np.flatnonzero(free)
        if not len(places):
            break
        voxel = np.unravel_index(places[random.integers(len(places))], free.shape)
        centre = np.array([axis[i] for axis, i in zip(body.axes, voxel, strict=True)])
        free &= np.hypot(np.hypot(z - centre[0], y - centre[1]), x - centre[2]) > 15.0
        lesions.append(_SHAPES[kind](body, random, centre))
    return lesions


def _nodule(body: Body, random: np.random.Generator, centre: Array) -> Lesion:
    diameter = 5.0 + 10.0 * random.beta(1.2, 2.0)
    radius = diameter / 2
    origin, axes = _box(body, centre, radius * 1.8 + 3.0)
    offsets = np.stack(np.broadcast_arrays(*np.ix_(*axes)))
    away = np.sqrt((offsets**2).sum(axis=0)) + 1e-9
    stretched = offsets * random.uniform(0.85, 1.2, 3).reshape(3, 1, 1, 1)
    distance = np.sqrt((stretched**2).sum(axis=0)) - radius
    distance += random.uniform(0.05, 0.25) * radius * smooth_field(random, axes, 0.8 * radius)
    for _ in range(random.integers(0, 7)):
        spike = random.normal(size=3)
        cosine = np.tensordot(spike / np.linalg.norm(spike), offsets, 1) / away
        distance -= 0.7 * radius * np.exp((cosine - 1) * 25.0)
    solid = random.random() < 2 / 3
    density = random.uniform(-60, 60) if solid else random.uniform(-600, -350)
    return Lesion(
        kind="nodule", origin=origin, distance=distance, diameter=diameter, density=density
    )


def _scar(body: Body, random: np.random.Generator, centre: Array) -> Lesion:
    width, length = random.uniform(2.5, 4.5), random.uniform(9.0, 16.0)
    origin, axes = _box(body, centre, length / 2 + width + 2.0)
    offsets = np.stack(np.broadcast_arrays(*np.ix_(*axes)))
    along = random.normal(size=3)
    along /= np.linalg.norm(along)
    position = np.tensordot(along, offsets, 1)
    rest = offsets - along.reshape(3, 1, 1, 1) * np.clip(position, -length / 2, length / 2)
    distance = np.sqrt((rest**2).sum(axis=0)) - width / 2
    distance += 0.3 * smooth_field(random, axes, 3.0)
    density = random.uniform(-200, 60)
    return Lesion(kind="scar", origin=origin, distance=distance, diameter=width, density=density)


_SHAPES = {"nodule": _nodule, "scar": _scar}


def _box(body: Body, centre: Array, reach: float) -> tuple[tuple[int, int, int], list[Array]]:
    """Return the first voxel of the box within `reach` of `centre`, and its axes from it."""
    spans = [
        np.flatnonzero(np.abs(axis - middle) <= reach)
        for axis, middle in zip(body.axes, centre, strict=True)
    ]
    z, y, x = (int(span[0]) for span in spans)
    return (z, y, x), [
        axis[span] - middle for axis, span, middle in zip(body.axes, spans, centre, strict=True)
    ]


def scan(body: Body, lesions: Sequence[Lesion], random: np.random.Generator) -> NDArray[np.int16]:
    """Return a scan of a body: HU (z, y, x), blurred, with a scanner's grain of noise.

    Noise of filtered back-projection has no low frequencies: it is white noise minus its own blur.
    """
    image = body.tissue + soft_step(body.vessels, 1.0) * soft_step(-body.depth, 1.5) * (
        _BLOOD - body.tissue
    )
    for lesion in lesions:
        box = tuple(
            slice(start, start + size)
            for start, size in zip(lesion.origin, lesion.distance.shape, strict=True)
        )
        part = image[box]
        # Vessels in a nodule that is fainter than they are show through.
        gain = soft_step(lesion.distance, 1.2) * np.maximum(lesion.density - part, 0.0)
        part += gain * soft_step(-body.depth[box], 1.5)
    image = ndimage.gaussian_filter(image, random.uniform(0.6, 0.8), axes=(1, 2))
    white = random.standard_normal(image.shape)
    grain = ndimage.gaussian_filter(white, 0.6, axes=(1, 2))
    grain -= ndimage.gaussian_filter(grain, 1.8, axes=(1, 2))
    image += random.uniform(40.0, 80.0) * grain / grain.std()
    return np.clip(np.rint(image), -1024, 3071).astype(np.int16)
