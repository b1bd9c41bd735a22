"""The training stream: which sample is at which position, and how it is cut, flipped and scaled.

The stream is a pure function of the seed and the position (and of the masks, if patches are placed
on foreground). So every optimizer, loss, loader and number of processes at one (fold, seed) sees
the same samples, and a resumed run continues with the samples it would have had.
"""

import hashlib
from dataclasses import dataclass, fields, replace
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from loaders.sampling.foreground import Foreground

Floats = NDArray[np.float64]
Indices = NDArray[np.int64]

# Random streams of their own, separate from that of (seed, epoch).
_BALANCE, _LATER = (1,), (2,)
# The planes of rotation, by the number of spatial axes: in 3-D about the first, the second and the
# third axis.
_PLANES = {2: ((0, 1),), 3: ((1, 2), (2, 0), (0, 1))}
# Augmentations that are applied with probability `chance`, in the order of the draws.
_BY_CHANCE = ("rotate", "zoom", "noise", "contrast", "gamma")


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a sample is cut out of its case and augmented.

    - `patch`: voxels along each spatial axis.
    - `flip`: which axes are mirrored, each with probability 1/2; a tuple of one bool per axis.
    - `scale`: each channel's contrast is multiplied by a factor drawn in 1 ± scale.
    - `shift`: each channel's brightness is then shifted by up to ± shift, in normalised units,
      which are multiples of the sampler's `unit`.
    - `foreground`: the share of patches that are centred on a random foreground voxel
      (loaders.sampling.foreground), as far as the image's border allows; cases without foreground
      give random patches.

    The others are off by default.

    - `translate`: the patch is moved by up to ± this share of its side, in whole voxels, so that
      nothing is interpolated, and never off the foreground voxel on which it was placed.
    - `rotate`: the largest angle in degrees, about the patch's centre; one number in 2-D, in 3-D
      one each about the first, the second and the third axis, composed as R1 R2 R3.
    - `zoom`: magnification by a factor in 1 ± zoom, the same for all axes.
    - `noise`: Gaussian, its standard deviation uniform in 0 to noise, in normalised units.
    - `contrast`: in each channel, distances from the patch's mean are multiplied by a factor in
      1 ± contrast, clipped to the patch's range.
    - `gamma`: each channel of the patch, rescaled to 0..1, is raised to an exponent drawn
      log-uniformly between 1 / (1 + gamma) and 1 + gamma, and rescaled back.
    - `chance`: the probability of each of rotate, zoom, noise, contrast and gamma, drawn
      separately. 0.2 is that of rotation and of scaling in nnU-Net, whose others are 0.1 to 0.3
      (Isensee et al. 2021, 10.1038/s41592-020-01008-z, supplementary note 4).

    Raises ValueError.
    """

    patch: tuple[int, ...]
    flip: tuple[bool, ...]
    scale: float
    shift: float
    foreground: float
    translate: float = 0.0
    rotate: tuple[float, ...] = ()
    zoom: float = 0.0
    noise: float = 0.0
    contrast: float = 0.0
    gamma: float = 0.0
    chance: float = 0.2

    def __post_init__(self) -> None:
        """Raise ValueError for values that cannot be drawn."""
        if not self.patch or min(self.patch) < 1:
            raise ValueError(f"patch is {self.patch}; each side must be at least 1")
        if not isinstance(self.flip, tuple) or len(self.flip) != len(self.patch):
            raise ValueError(
                f"flip is {self.flip}; it must be a tuple of {len(self.patch)} bools, one an axis"
            )
        angles = len(_PLANES.get(len(self.patch), ()))
        if not isinstance(self.rotate, tuple) or len(self.rotate) not in (0, angles):
            raise ValueError(
                f"rotate is {self.rotate}; it must be a tuple of {angles} angles in degrees, or ()"
            )
        if not all(0 <= angle <= 180 for angle in self.rotate):
            raise ValueError(f"rotate is {self.rotate}; each angle must be from 0 to 180 degrees")
        for name in ("scale", "translate", "zoom", "contrast"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(
                    f"{name} is {getattr(self, name)}; it must be at least 0 and less than 1"
                )
        for name in ("shift", "noise", "gamma"):
            if not 0 <= getattr(self, name) < np.inf:
                value = getattr(self, name)
                raise ValueError(f"{name} is {value}; it must be at least 0 and finite")
        for name in ("foreground", "chance"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be from 0 to 1")

    @property
    def warps(self) -> bool:
        """Whether some samples are rotated or zoomed, and so interpolated."""
        return self.chance > 0 and (self.zoom > 0 or any(self.rotate))

    @property
    def alters(self) -> bool:
        """Whether the values of some samples get noise, contrast or gamma."""
        return self.chance > 0 and max(self.noise, self.contrast, self.gamma) > 0


@dataclass(frozen=True, kw_only=True)
class Draws:
    """n samples: where they are read, and how they are augmented.

    - `patch`: its shape (d).
    - `case` (n,) int64: row in the store.
    - `origin` (n, d) int64: first voxel of the patch, which may be outside the image, where the
      value is `meta.fill`.
    - `matrix` (n, d, d) float64 maps a voxel's offset from the patch's centre, (patch - 1) / 2, to
      the offset at which it is read; unless it is the identity, the sample is interpolated.
    - `flip` (n, d) bool mirrors what was read.
    - `offset`, `unit` (n, C) float32: sample = (raw - offset) * gain, rounded to float32 twice,
      where gain is 1 / unit.
    - For loaders.sampling.intensity: `noise` (n,) float32, the standard deviation, with numbers
      decided by `key` (n, 2) int64, seed and position; `contrast` (n, C) float32; `gamma` (n, C)
      float32. 0, 1 and 1 mean none.
    """

    patch: tuple[int, ...]
    case: Indices
    origin: Indices
    matrix: Floats
    flip: NDArray[np.bool_]
    offset: NDArray[np.float32]
    unit: NDArray[np.float32]
    key: Indices
    noise: NDArray[np.float32]
    contrast: NDArray[np.float32]
    gamma: NDArray[np.float32]

    @property
    def gain(self) -> NDArray[np.float32]:
        """1 / unit (n, C), divided as in DALI: in float64, then rounded to float32 once."""
        return (1.0 / self.unit.astype(np.float64)).astype(np.float32)

    @property
    def warped(self) -> NDArray[np.bool_]:
        """Which samples (n,) are rotated or zoomed."""
        moved: NDArray[np.bool_] = (self.matrix != np.eye(len(self.patch))).any(axis=(1, 2))
        return moved

    def __len__(self) -> int:
        return len(self.case)

    def __getitem__(self, rows: NDArray[Any] | slice) -> "Draws":
        return replace(self, **{name: getattr(self, name)[rows] for name in _COLUMNS})


_COLUMNS = tuple(field.name for field in fields(Draws) if field.name != "patch")


@dataclass(frozen=True, kw_only=True)
class _Epoch:
    """The samples of an epoch before any are placed on foreground.

    `placed` (n,) tells which will be, `on` (n, 2) in [0, 1) on which region and voxel of it, and
    `moved` (n, d) by how many voxels the patch is then moved.
    """

    draws: Draws
    placed: NDArray[np.bool_]
    on: Floats
    moved: Indices


class Sampler:
    """The stream of training samples of one training part under one seed.

    Position p is sample p % n of epoch p // n, n = len(cases). Each epoch is a new permutation, and
    the stream continues over the end of an epoch, so that every batch is full. The draws for a
    position do not depend on which augmentations the recipe turns on.

    - `cases` (n,) int64: rows of the training part.
    - `shapes` (N, d) int64, `offset` and `unit` (N, C), for all N cases of the store; the offset is
      subtracted from intensities, which are then divided by the unit.
    - `foreground` is that of the same cases; None: there is none.
    - `balance` (N,): the class of each case. With it, an epoch is not a permutation: its n samples
      are divided evenly among the classes of the training part (if n is not divisible, the classes
      with one more are drawn in each epoch), and each is one of its class's cases, drawn with
      replacement.
    - `spacing` (N, d): the size of a voxel. With it, rotations are rotations of the body even if
      voxels are not cubes; a case with an entry that is not a positive number is assumed to have
      cubes.

    Raises ValueError.
    """

    def __init__(
        self,
        *,
        cases: NDArray[np.integer[Any]],
        shapes: NDArray[np.integer[Any]],
        offset: Floats,
        unit: Floats,
        recipe: Recipe,
        seed: int,
        foreground: Foreground | None = None,
        balance: NDArray[np.integer[Any]] | None = None,
        spacing: Floats | None = None,
    ) -> None:
        self.cases: Indices = np.asarray(cases, dtype=np.int64)
        self.recipe = recipe
        self.seed = seed
        self._patch = np.array(recipe.patch, dtype=np.int64)
        self._shapes: Indices = np.asarray(shapes, dtype=np.int64)
        self._foreground = foreground
        self._offset = np.asarray(offset, dtype=np.float64)
        self._unit = np.asarray(unit, dtype=np.float64)
        if not len(self.cases):
            raise ValueError("the training part has no cases")
        if self._shapes.shape[1] != len(recipe.patch):
            raise ValueError(
                f"patch {recipe.patch} has {len(recipe.patch)} axes, "
                f"but the images have {self._shapes.shape[1]}"
            )
        if not (self._unit > 0).all():
            raise ValueError("unit has an entry that is not above 0")
        if balance is not None and len(balance) != len(self._shapes):
            raise ValueError(
                f"balance has {len(balance)} labels, but the store has {len(self._shapes)} cases"
            )
        sides = np.ones(self._shapes.shape) if spacing is None else np.asarray(spacing, np.float64)
        if sides.shape != self._shapes.shape:
            raise ValueError(
                f"spacing has shape {sides.shape}, but shapes has {self._shapes.shape}"
            )
        known = (np.isfinite(sides) & (sides > 0)).all(axis=1, keepdims=True)
        self._spacing: Floats = np.where(known, sides, 1.0)
        # The training part class by class; None: every case once per epoch.
        self._classes: list[Indices] | None = None
        if balance is not None:
            labels = np.asarray(balance)[self.cases]
            self._classes = [self.cases[labels == label] for label in np.unique(labels)]
        # The last epochs drawn. The tuple is replaced as a whole: loaders draw in several threads.
        self._recent: tuple[tuple[int, _Epoch], ...] = ()

    @property
    def balanced(self) -> bool:
        """Whether all classes are drawn equally often."""
        return self._classes is not None

    def digest(self) -> bytes:
        """Return a hash of everything that decides the draws except the masks."""
        digest = hashlib.sha256(repr((self.recipe, self.seed, self.balanced)).encode())
        arrays = [self.cases, self._shapes, self._offset, self._unit, self._spacing]
        arrays += self._classes or []
        arrays += [] if self._foreground is None else self._foreground.arrays
        for array in arrays:
            digest.update(f"{array.shape} {array.dtype}".encode())
            digest.update(np.ascontiguousarray(array).tobytes())
        return digest.digest()

    def draw(self, positions: NDArray[np.integer[Any]]) -> Draws:
        """Return the samples at these positions (n,) of the stream."""
        epochs, index = np.divmod(np.asarray(positions, dtype=np.int64), len(self.cases))
        first, last = int(epochs.min()), int(epochs.max())
        if first == last:
            return self._of_epoch(first, index)
        parts = [self._of_epoch(int(epoch), index[epochs == epoch]) for epoch in np.unique(epochs)]
        # From the order of epochs back to the requested order.
        back = np.argsort(np.argsort(epochs, kind="stable"), kind="stable")
        joined: dict[str, Any] = {
            name: np.concatenate([getattr(part, name) for part in parts])[back] for name in _COLUMNS
        }
        return replace(parts[0], **joined)

    def drawn(self, positions: NDArray[np.integer[Any]]) -> Indices:
        """Return the cases (n,) at these positions of the stream, without their patches."""
        epochs, index = np.divmod(np.asarray(positions, dtype=np.int64), len(self.cases))
        cases = np.empty(len(index), dtype=np.int64)
        for epoch in np.unique(epochs).tolist():
            here = epochs == epoch
            cases[here] = self._epoch(epoch).draws.case[index[here]]
        return cases

    def centre(self, cases: NDArray[np.integer[Any]]) -> Draws:
        """Return the cases' centred patches for evaluation: normalised, not augmented."""
        rows: Indices = np.asarray(cases, dtype=np.int64)
        n, d = len(rows), len(self._patch)
        offset, unit = self._intensity(rows, 1.0, 0.0)
        return Draws(
            patch=self.recipe.patch,
            case=rows,
            origin=self._centred(self._shapes[rows]),
            matrix=np.tile(np.eye(d), (n, 1, 1)),
            flip=np.zeros((n, d), dtype=bool),
            offset=offset,
            unit=unit,
            key=np.zeros((n, 2), dtype=np.int64),
            noise=np.zeros(n, dtype=np.float32),
            contrast=np.ones(offset.shape, dtype=np.float32),
            gamma=np.ones(offset.shape, dtype=np.float32),
        )

    def _of_epoch(self, epoch: int, index: Indices) -> Draws:
        """Return samples of an epoch. Masks are read only for these, when they are requested."""
        known = self._epoch(epoch)
        draws, rows = known.draws[index], np.flatnonzero(known.placed[index])
        if self._foreground is None or not len(rows):
            return draws
        cases, on = draws.case[rows], known.on[index[rows]]
        voxels = np.array(
            [
                self._foreground.voxel(case, region, place)
                for case, (region, place) in zip(cases.tolist(), on.tolist(), strict=True)
            ]
        )
        shapes = self._shapes[cases]
        origin = np.clip(voxels - self._patch // 2, 0, np.maximum(shapes - self._patch, 0))
        origin = np.where(shapes < self._patch, self._centred(shapes), origin)
        origin += known.moved[index[rows]]
        whole = draws.origin.copy()
        whole[rows] = np.clip(origin, voxels - self._patch + 1, voxels)
        return replace(draws, origin=whole)

    def _epoch(self, epoch: int) -> _Epoch:
        for known, drawn in self._recent:
            if known == epoch:
                return drawn
        drawn = self._draw_epoch(epoch)
        # Two are kept: a batch across the end of an epoch needs both.
        self._recent = ((epoch, drawn), *self._recent[:1])
        return drawn

    def _draw_epoch(self, epoch: int) -> _Epoch:
        n, d, channels = len(self.cases), len(self._patch), self._offset.shape[1]
        # Philox is counter-based (Salmon et al. 2011, Parallel random numbers: as easy as 1, 2, 3):
        # one independent stream for each key.
        generator = np.random.Generator(
            np.random.Philox(np.random.SeedSequence([self.seed, epoch]))
        )
        # Drawn with and without classes: later draws must not depend on them.
        order = generator.permutation(n)
        cases = self.cases[order] if self._classes is None else self._balanced(epoch)[order]
        # All are always drawn, so that turning one augmentation off does not change the others.
        place, flip, scale, shift, region = np.split(
            generator.random((n, 2 * d + 2 * channels + 2)),
            np.cumsum([d, d, channels, channels]),
            axis=1,
        )
        offset, unit = self._intensity(
            cases, 1 + self.recipe.scale * (2 * scale - 1), self.recipe.shift * (2 * shift - 1)
        )
        recipe, turns = self.recipe, len(_PLANES[d])
        # A separate generator, so that these later additions do not change the draws above.
        later = np.random.Generator(
            np.random.Philox(np.random.SeedSequence([self.seed, epoch], spawn_key=_LATER))
        )
        chance, move, angle, zoom, noise, contrast, gamma = np.split(
            later.random((n, len(_BY_CHANCE) + d + turns + 2 + 2 * channels)),
            np.cumsum([len(_BY_CHANCE), d, turns, 1, 1, channels]),
            axis=1,
        )
        on = dict(zip(_BY_CHANCE, (chance < recipe.chance).T[:, :, None], strict=True))
        moved = np.rint(recipe.translate * (2 * move - 1) * self._patch).astype(np.int64)
        factor = np.where(on["zoom"], 1 + recipe.zoom * (2 * zoom - 1), 1.0)
        angles = np.where(on["rotate"], (2 * angle - 1) * (recipe.rotate or 0.0), 0.0)
        exponent = (2 * gamma - 1) * np.log1p(recipe.gamma)
        placed = np.zeros(n, dtype=bool)
        if self._foreground is not None:
            placed = (region[:, 0] < recipe.foreground) & (self._foreground.held[cases] > 0)
        draws = Draws(
            patch=recipe.patch,
            case=cases,
            origin=self._origins(cases, place) + moved,
            matrix=self._matrices(cases, np.deg2rad(angles)) / factor[:, :, None],
            flip=(flip < 0.5) & np.array(recipe.flip),
            offset=offset,
            unit=unit,
            key=np.stack([np.full(n, self.seed), n * epoch + np.arange(n)], axis=1),
            noise=np.where(on["noise"], recipe.noise * noise, 0.0)[:, 0].astype(np.float32),
            contrast=np.where(on["contrast"], 1 + recipe.contrast * (2 * contrast - 1), 1.0).astype(
                np.float32
            ),
            gamma=np.where(on["gamma"], np.exp(exponent), 1.0).astype(np.float32),
        )
        # The place along the first axis is drawn for such a sample too, though it is not used.
        where = np.stack([region[:, 1], place[:, 0]], axis=1)
        return _Epoch(draws=draws, placed=placed, on=where, moved=moved)

    def _matrices(self, cases: Indices, angles: Floats) -> Floats:
        """Return rotations (n, d, d) by `angles` (n, 1 or 3), in radians, in units of voxels."""
        d = len(self._patch)
        whole = np.tile(np.eye(d), (len(cases), 1, 1))
        for nth, angle in enumerate(angles.T):
            first, second = _PLANES[d][nth]
            turn = np.tile(np.eye(d), (len(cases), 1, 1))
            turn[:, first, first] = turn[:, second, second] = np.cos(angle)
            turn[:, second, first] = np.sin(angle)
            turn[:, first, second] = -turn[:, second, first]
            whole = whole @ turn
        spacing = self._spacing[cases]
        return whole * spacing[:, None, :] / spacing[:, :, None]

    def _balanced(self, epoch: int) -> Indices:
        """Return the cases (n,) of an epoch with equally many of each class, class by class."""
        classes = self._classes or []
        generator = np.random.Generator(
            np.random.Philox(np.random.SeedSequence([self.seed, epoch], spawn_key=_BALANCE))
        )
        share, rest = divmod(len(self.cases), len(classes))
        more = generator.permutation(len(classes)) < rest
        drawn = [
            generator.choice(members, share + extra)
            for members, extra in zip(classes, more.tolist(), strict=True)
        ]
        return np.concatenate(drawn)

    def _intensity(
        self, cases: Indices, scale: Floats | float, shift: Floats | float
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return offset and unit (n, C) of the samples.

        With them, a raw value becomes (raw - own offset) / own unit * scale + shift.
        """
        unit = self._unit[cases] / scale
        offset = self._offset[cases] - shift * unit
        return offset.astype(np.float32), unit.astype(np.float32)

    def _centred(self, shapes: Indices) -> Indices:
        room = shapes - self._patch
        return np.where(room >= 0, room // 2, -(-room // 2))

    def _origins(self, cases: Indices, place: Floats) -> Indices:
        """Return the origins of random patches; `place` (n, d) is uniform in [0, 1)."""
        shapes = self._shapes[cases]
        room = np.maximum(shapes - self._patch, 0)
        origin = np.floor(place * (room + 1)).astype(np.int64)
        return np.where(shapes < self._patch, self._centred(shapes), origin)


def batch_positions(
    batch: int, *, batch_size: int, start: int, shard: tuple[int, int], chunks: int = 1
) -> Indices:
    """Return the stream positions of one rank's share of the k-th batch after position `start`.

    The share is that of `batch_shares`, so that all ranks together see what one process would.
    Raises ValueError.
    """
    if start < 0:
        raise ValueError(f"start is {start}; it must be at least 0")
    return start + batch * batch_size + _own_places(batch_size, shard, chunks)


# A trial has one or two of these, and needs them at each step.
@lru_cache(maxsize=64)
def _own_places(batch_size: int, shard: tuple[int, int], chunks: int) -> Indices:
    shares = batch_shares(batch_size, shard=shard, chunks=chunks)
    return np.concatenate([np.arange(share.start, share.stop) for share in shares])


def batch_shares(batch_size: int, *, shard: tuple[int, int], chunks: int = 1) -> tuple[slice, ...]:
    """Return the slices that one rank takes from the `chunks` parts of a global batch of b samples.

    A part is what goes through the network together: the slice [b * c // k : b * (c + 1) // k] for
    c of k. Rank r of w takes such a slice, r of w, of each part: a part holds the same samples
    whatever the number of ranks. Raises ValueError if a rank would get nothing.
    """
    rank, world = shard
    if not 0 <= rank < world:
        raise ValueError(f"shard is {shard}; it must be (rank, world) with 0 <= rank < world")
    shares = []
    for chunk in range(chunks):
        begin, end = batch_size * chunk // chunks, batch_size * (chunk + 1) // chunks
        first, last = ((end - begin) * place // world for place in (rank, rank + 1))
        if first == last:
            raise ValueError(f"a batch of {end - begin} leaves nothing for rank {rank} of {world}")
        shares.append(slice(begin + first, begin + last))
    return tuple(shares)
