"""Cine loops of nobody: an echo of a beating ring, whose class shows in its motion alone.

The ring contracts fast and relaxes slowly, or the other way round: a loop of the second class is a
loop of the first played backwards. So the sets of single frames are identically distributed in both
classes, at every place in the loop too, since the beat starts at a random phase; no network that
looks at frames one by one can tell them apart, and the order of the frames alone does.

Speckle: the envelope of a complex Gaussian field, correlated over a point-spread function and thus
Rayleigh distributed (Wagner et al. 1983, 10.1109/T-SU.1983.31404), drawn anew for every frame, then
log-compressed as a scanner shows it.
"""

import csv
import io
import shutil
from fractions import Fraction
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

# Index is the label.
CLASSES = ("fast contraction", "fast relaxation")
# Frames a second of a scanner (assumption; echocardiography shows 25 to 60).
RATE = 25
# All lengths are shares of the side (assumptions: what a short-axis view looks like).
_RADIUS = (0.12, 0.38)  # of the ring at the end of the contraction and of the relaxation
_WALL = 0.12
_SHIFT = 0.02
# Share of a beat that the fast movement takes: exaggerated, a heart's systole takes a third.
_FAST = 0.1
# Beats in a loop (assumption): two, more or less.
_BEATS = (1.8, 2.2)
# Mean echo of blood and tissue beside that of the wall, which is 1 (assumptions).
_BLOOD, _TISSUE = 0.02, 0.15
# Grey levels show this range, in dB (a usual setting of scanners; assumption).
_RANGE_DB = 50.0
# Width of the point-spread function, in pixels across and along the beam (assumption).
_PSF = (0.5, 0.8)


def make_cine(out: Path, *, loops: int, seed: int, frames: int = 12, side: int = 32) -> None:
    """Make `loops` AVI files (grey, lossless FFV1) and labels.csv, half of each class.

    Columns: video, beat (a name of CLASSES), patient (two loops, one of each class). Loop n is the
    same however many there are. Raises FileExistsError where `out` is there already, ValueError
    where a number is too small.
    """
    if loops < 2 or frames < 4 or side < 16 or side % 2:
        raise ValueError(
            f"loops is {loops}, frames is {frames}, side is {side}: at least 2 loops, 4 frames "
            "and an even side of 16"
        )
    if out.exists():
        raise FileExistsError(f"{out} is there already")
    building = out.with_name(f"{out.name}.building")
    if building.exists():
        shutil.rmtree(building)
    (building / "videos").mkdir(parents=True)
    table = io.StringIO()
    lines = csv.writer(table, lineterminator="\n")
    lines.writerow(("video", "beat", "patient"))
    for number in range(loops):
        label = number % 2
        name = f"loop{number:04d}"
        loop = make_loop(np.random.default_rng([seed, number]), frames=frames, side=side)
        played = loop[::-1] if label else loop
        (building / "videos" / f"{name}.avi").write_bytes(encode_avi(played))
        lines.writerow((name, CLASSES[label], f"patient{number // 2:04d}"))
    (building / "labels.csv").write_text(table.getvalue(), encoding="utf-8")
    building.rename(out)


def make_loop(random: np.random.Generator, *, frames: int, side: int) -> NDArray[np.uint8]:
    """Return one loop of fast contraction (T, Y, X) uint8."""
    phase = random.uniform() + np.arange(frames) / frames * random.uniform(*_BEATS)
    centre = 0.5 + random.uniform(-_SHIFT, _SHIFT, 2)
    size = random.uniform(0.9, 1.1)
    grid = (np.arange(side) + 0.5) / side
    distance = np.hypot(grid[:, np.newaxis] - centre[0], grid[np.newaxis, :] - centre[1])
    images = []
    for moment in phase % 1.0:
        # From 1 (relaxed) down to 0 within the fast share, and slowly up again.
        open_ = 1 - moment / _FAST if moment < _FAST else (moment - _FAST) / (1 - _FAST)
        radius = size * (_RADIUS[0] + (_RADIUS[1] - _RADIUS[0]) * open_)
        echo = np.where(distance < radius, _BLOOD, _TISSUE)
        echo = np.where(np.abs(distance - radius) < _WALL, 1.0, echo)
        images.append(_shown(echo * _speckle(random, side)))
    return np.stack(images)


def _speckle(random: np.random.Generator, side: int) -> NDArray[np.float64]:
    """Return a Rayleigh field (Y, X) of mean square 1."""
    parts = [gaussian_filter(random.standard_normal((side, side)), _PSF) for _ in range(2)]
    envelope: NDArray[np.float64] = np.hypot(*parts)
    envelope /= np.sqrt(np.mean(envelope**2))
    return envelope


def _shown(envelope: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Log-compress an envelope to grey levels: 255 at twice the wall's mean echo."""
    level = 20 * np.log10(np.maximum(envelope / 2, 1e-6))
    return np.rint(255 * np.clip(1 + level / _RANGE_DB, 0, 1)).astype(np.uint8)


def encode_avi(loop: NDArray[np.uint8], *, rate: int = RATE) -> bytes:
    """Return a grey loop (T, Y, X) as an AVI file; decoded, it is the same bit for bit."""
    import av

    file = io.BytesIO()
    # bitexact: no version of the library in the file, so the same loop makes the same bytes.
    with av.open(file, mode="w", format="avi", options={"fflags": "+bitexact"}) as container:
        stream = container.add_stream("ffv1", rate=Fraction(rate))
        stream.height, stream.width = loop.shape[1:]
        stream.pix_fmt = "gray"
        for image in loop:
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="gray")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return file.getvalue()
