"""Synthetic four-channel brain MRI with a nested tumour: oedema, enhancing rim, necrotic core.

The tumour's regions are learnable but not trivial: tissues vary from patient to patient, coils
shade the image, noise is like a scanner's, and healthy structures look like tumour in one channel
(bright vessels after contrast agent, white-matter lesions on FLAIR).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from loaders.phantoms.random_fields import Array, centred_axes, smooth_field, soft_step

CHANNELS = ("t1n", "t1c", "t2w", "t2f")
NECROSIS, OEDEMA, ENHANCING = 1, 2, 3
SHAPE = (48, 48, 40)

# Brightness in each channel, relative to 0.7 for white matter in T1; tissues have the order that is
# typical of each weighting (assumption).
_BRIGHTNESS = {
    #            t1n   t1c   t2w   t2f
    "fluid": (0.30, 0.30, 0.95, 0.30),
    "grey": (0.56, 0.58, 0.58, 0.58),
    "white": (0.70, 0.71, 0.48, 0.52),
    "lesion": (0.60, 0.60, 0.70, 0.82),
    "vessel": (0.55, 1.00, 0.42, 0.46),
    "necrosis": (0.38, 0.42, 0.92, 0.66),
    "oedema": (0.52, 0.53, 0.84, 1.00),
    "enhancing": (0.55, 1.15, 0.72, 0.86),
}


# As shares of brightness: the noise of an acquisition, and how far a patient's tissues and coils
# deviate from the table (assumption; tuned so that a small U-Net neither fails nor is perfect).
_NOISE = (0.03, 0.06)
_TISSUE_SPREAD = 0.02
_TEXTURE = 0.02
_SHADING = 0.10


@dataclass(frozen=True, kw_only=True)
class Patient:
    """What all scans of a patient share; arrays are (x, y, z), lengths in voxels.

    `surface` is the distance to the brain's surface, negative inside, and `healthy` (channel,
    x, y, z) its brightness without the tumour. `tumour` is the distance from the tumour's centre,
    stretched, and `waves` (3, x, y, z) makes the surfaces of its regions uneven. `radius` is the
    oedema's, `core` and `necrosis` are shares of it.
    """

    axes: tuple[Array, Array, Array]
    brightness: dict[str, Array]
    surface: Array
    healthy: Array
    tumour: Array
    waves: Array
    radius: float
    core: float
    necrosis: float
    enhances: bool


def make_patient(random: np.random.Generator, *, enhances: bool) -> Patient:
    """Return a brain with ventricles, vessels, white-matter lesions and a tumour's position."""
    axes = centred_axes(SHAPE, (1.0, 1.0, 1.0))
    grid = np.ix_(*axes)
    half = np.array([20.0, 22.0, 17.0]) * random.uniform(0.94, 1.04, 3)
    surface = _ellipsoid(grid, np.zeros(3), half) + 0.8 * smooth_field(random, axes, 8.0)
    folds = 1.2 * smooth_field(random, axes, 3.0)
    parts = {
        "white": soft_step(surface + 4.5 + folds, 1.5),
        "fluid": soft_step(-surface - 1.2 + 0.5 * folds, 1.5),
    }
    for side in (-1, 1):
        centre = np.array([side * 4.0, random.uniform(-2, 2), random.uniform(-1, 3)])
        ventricle = _ellipsoid(grid, centre, np.array([2.2, 8.0, 3.5]) * random.uniform(0.8, 1.2))
        parts["fluid"] = np.maximum(parts["fluid"], soft_step(ventricle + 0.3 * folds, 1.5))
    spots = smooth_field(random, axes, 3.0)
    parts["lesion"] = soft_step(2.0 - spots, 0.6) * parts["white"]
    parts["vessel"] = np.max([_vessel(random, grid, half) for _ in range(6)], axis=0)
    brightness = {
        name: np.add(values, random.normal(0, _TISSUE_SPREAD, 4)).reshape(4, 1, 1, 1)
        for name, values in _BRIGHTNESS.items()
    }
    healthy = np.broadcast_to(brightness["grey"], (4, *SHAPE)).copy()
    for name, part in parts.items():
        healthy += part * (brightness[name] - healthy)
    places = np.argwhere(surface < -7.0)
    centre = places[random.integers(len(places))] - (np.array(SHAPE) - 1) / 2
    return Patient(
        axes=axes,
        brightness=brightness,
        surface=surface,
        healthy=healthy,
        tumour=_ellipsoid(grid, centre, random.uniform(0.8, 1.25, 3)) + 1.0,
        waves=np.stack([smooth_field(random, axes, length) for length in (5.0, 4.0, 3.0)]),
        radius=random.uniform(8.0, 13.0),
        core=random.uniform(0.55, 0.8),
        necrosis=random.uniform(0.4, 0.7),
        enhances=enhances,
    )


def _ellipsoid(grid: tuple[Array, ...], centre: Array, half: Array) -> Array:
    """Return the distance to an ellipsoid's surface (exact for a ball), negative inside."""
    squares = [((g - c) / h) ** 2 for g, c, h in zip(grid, centre, half, strict=True)]
    distance: Array = (np.sqrt(squares[0] + squares[1] + squares[2]) - 1) * np.min(half)
    return distance


def _vessel(random: np.random.Generator, grid: tuple[Array, ...], half: Array) -> Array:
    """Return the share of each voxel that a straight vessel, about one voxel wide, fills."""
    start = random.uniform(-0.7, 0.7, 3) * half
    along = random.normal(size=3)
    along /= np.linalg.norm(along)
    offset = [g - s for g, s in zip(grid, start, strict=True)]
    position = sum(o * a for o, a in zip(offset, along, strict=True))
    square = sum(o**2 for o in offset) - np.asarray(position) ** 2
    return soft_step(np.sqrt(np.maximum(square, 0)) - random.uniform(0.5, 1.1), 1.0)


def scan(
    patient: Patient, random: np.random.Generator, *, growth: float
) -> tuple[NDArray[np.int16], NDArray[np.uint8]]:
    """Return one scan: the channels (channel, x, y, z), zero outside the brain, and the labels.

    `growth` scales the tumour's radius. Noise is Rician: the magnitude of a complex signal, each
    part of it with Gaussian noise (Gudbjartsson and Patz, Magn Reson Med 34:910 (1995)).
    """
    radius = patient.radius * growth
    brain = patient.surface < 0
    sizes = (radius, radius * patient.core, radius * patient.core * patient.necrosis)
    whole, core, necrosis = (
        np.maximum(patient.tumour - size + 0.22 * size * wave, patient.surface)
        for size, wave in zip(sizes, patient.waves, strict=True)
    )
    # Each region stays inside the next one, and the enhancing rim is closed.
    core = np.maximum(core, whole + 0.7)
    necrosis = np.maximum(necrosis, core + 1.2) if patient.enhances else core
    signal = patient.healthy.copy()
    for name, surface in (("oedema", whole), ("enhancing", core), ("necrosis", necrosis)):
        signal += soft_step(surface, 1.5) * (patient.brightness[name] - signal)
    labels = np.zeros(SHAPE, np.uint8)
    labels[whole < 0] = OEDEMA
    labels[core < 0] = ENHANCING
    labels[necrosis < 0] = NECROSIS
    for channel in range(len(CHANNELS)):
        signal[channel] += _TEXTURE * smooth_field(random, patient.axes, 2.0)
        signal[channel] *= np.exp(_SHADING * smooth_field(random, patient.axes, 20.0))
    noise = random.uniform(*_NOISE)
    parts = noise * random.standard_normal((2, *signal.shape))
    magnitude = np.hypot(signal + parts[0], parts[1])
    # MRI has no unit, so each acquisition has a scale of its own.
    scale = np.exp(random.uniform(np.log(300), np.log(1500), (4, 1, 1, 1)))
    image = np.maximum(np.rint(scale * magnitude), 1) * brain
    return image.astype(np.int16), labels
