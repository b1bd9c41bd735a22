"""Phantom cine loops: true files, the same for a seed, and a class that only motion tells."""

import csv
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from loaders.datasets.table import KINDS
from loaders.store.prepare import prepare
from loaders.store.read import Store, open_store
from tests.loaders.phantoms.cine_loops import (
    CLASSES,
    RATE,
    _speckle,
    encode_avi,
    make_cine,
    make_loop,
)

# Loops, and how many of them a model learns from.
N, TRAIN = 400, 200
# Standard deviation of the AUC of 100 tested against 100 that do not differ (Mann and Whitney
# 1947). It holds for a model of other loops; cross-validation would spread 1.6 times as wide.
SPREAD = (201 / 12 / 100**2) ** 0.5


@pytest.fixture(scope="module")
def loops() -> tuple[Any, Any]:
    """Return N loops (n, T, Y, X) as float and their classes (n,)."""
    made, labels = [], np.arange(N) % 2
    for number, label in enumerate(labels):
        loop = make_loop(np.random.default_rng([11, number]), frames=12, side=32)
        made.append(loop[::-1] if label else loop)
    return np.stack(made).astype(float), labels


def prepared(source: Path, out: Path, **options: Any) -> Store:
    given = {"label": "beat", "positive": CLASSES[1], "group": "patient", "frames": 12, **options}
    report = prepare(KINDS["cine"], source, out, options=given, key=b"key", strict=True)
    assert report.rejected == ()
    return open_store(out)


def test_the_loops_come_back_from_their_files_bit_by_bit(tmp_path: Path) -> None:
    make_cine(tmp_path / "set", loops=6, seed=5)
    store = prepared(tmp_path / "set", tmp_path / "s")
    assert (store.meta.axes, store.meta.classes) == ("tyx", CLASSES)
    assert store.meta.positive == 1
    assert store.meta.channels == ("intensity",)
    assert store.image_type == np.uint8
    assert len(set(store.groups)) == 3
    assert (store.spacing[:, 0] == 1 / RATE).all()
    found = {store.image(row)[0].tobytes(): store.labels[row] for row in range(6)}
    for number in range(6):
        loop = make_loop(np.random.default_rng([5, number]), frames=12, side=32)
        assert found[(loop[::-1] if number % 2 else loop).tobytes()] == number % 2


def test_one_seed_makes_one_set_however_many_there_are(tmp_path: Path) -> None:
    for name, count, seed in (("a", 4, 1), ("b", 2, 1), ("c", 2, 2)):
        make_cine(tmp_path / name, loops=count, seed=seed)
    files = {name: [*sorted((tmp_path / name / "videos").iterdir())] for name in "abc"}
    assert [path.name for path in files["a"]] == [f"loop{n:04d}.avi" for n in range(4)]
    for a, b, c in zip(files["a"], files["b"], files["c"], strict=False):
        assert a.read_bytes() == b.read_bytes() != c.read_bytes()
    with (tmp_path / "a" / "labels.csv").open() as file:
        table = list(csv.DictReader(file))
    assert [row["beat"] for row in table] == [*CLASSES, *CLASSES]
    assert [row["patient"] for row in table] == ["patient0000"] * 2 + ["patient0001"] * 2


def test_it_is_an_avi_that_ffmpeg_reads(tmp_path: Path) -> None:
    loop = np.random.default_rng(0).integers(0, 256, (5, 18, 20)).astype(np.uint8)
    (tmp_path / "loop.avi").write_bytes(encode_avi(loop, rate=40))
    with av.open(str(tmp_path / "loop.avi")) as container:
        stream = container.streams.video[0]
        assert (container.format.name, stream.codec_context.name) == ("avi", "ffv1")
        assert (stream.frames, stream.average_rate) == (5, 40)
        frames = [frame.to_ndarray(format="gray") for frame in container.decode(stream)]
    np.testing.assert_array_equal(frames, loop)


TOO_SMALL = ({"loops": 1}, {"frames": 3}, {"side": 15}, {"side": 17})


@pytest.mark.parametrize("wrong", TOO_SMALL)
def test_too_small_is_refused(tmp_path: Path, wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="at least 2 loops, 4 frames and an even side of 16"):
        make_cine(tmp_path / "set", **{"loops": 4, "seed": 0, **wrong})
    assert not (tmp_path / "set").exists()


def test_what_stands_there_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    (tmp_path / "new.building").mkdir()
    with pytest.raises(FileExistsError):
        make_cine(tmp_path / "set", loops=2, seed=0)
    make_cine(tmp_path / "new", loops=2, seed=0)  # a half of an earlier run is removed
    assert sorted(path.name for path in tmp_path.iterdir()) == ["new", "set"]


# ---- the class is motion alone ----------------------------------------------------------------


def auc(features: Any, labels: Any) -> float:
    """Return the AUC of logistic regression on features (N, k), on the loops it did not see."""
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=2000))
    model.fit(features[:TRAIN], labels[:TRAIN])
    return float(roc_auc_score(labels[TRAIN:], model.decision_function(features[TRAIN:])))


def test_the_classes_have_the_same_frames(loops: tuple[Any, Any]) -> None:
    """A class-1 loop is a class-0 loop of the same law, reversed: no set of frames can tell."""
    images, labels = loops
    forward = make_loop(np.random.default_rng([11, 1]), frames=12, side=32)
    np.testing.assert_array_equal(np.sort(images[1], axis=0), np.sort(forward, axis=0))
    # Statistics of the set of a loop's frames, whatever their order.
    level, spread = images.mean(axis=(2, 3)), images.std(axis=(2, 3))
    of_sets = np.stack(
        [f(values, axis=1) for values in (level, spread) for f in (np.mean, np.std, np.max)], axis=1
    )
    assert abs(auc(of_sets, labels) - 0.5) < 3 * SPREAD
    # The mean frame, which is all that a linear model averaged over frames sees.
    small = images.mean(axis=1).reshape(N, 8, 4, 8, 4).mean(axis=(2, 4)).reshape(N, 64)
    assert abs(auc(small, labels) - 0.5) < 3 * SPREAD


@pytest.mark.parametrize("place", [0, 5, 11])
def test_no_single_frame_tells_the_class(loops: tuple[Any, Any], place: int) -> None:
    images, labels = loops
    frame = images[:, place].reshape(N, 8, 4, 8, 4).mean(axis=(2, 4)).reshape(N, 64)
    assert abs(auc(frame, labels) - 0.5) < 3 * SPREAD
    # And one number of which the model can make no mistake: the brightness, for the radius.
    bright = roc_auc_score(labels, images[:, place].mean(axis=(1, 2)))
    assert abs(bright - 0.5) < 3 * SPREAD


def test_the_direction_of_the_quick_movement_tells_it(loops: tuple[Any, Any]) -> None:
    images, labels = loops
    side = images.shape[-1]
    grid = (np.arange(side) + 0.5) / side - 0.5
    distance = np.hypot(grid[:, None], grid[None, :])
    weight = np.maximum(images - 150, 0)  # the wall
    radius = (weight * distance).sum(axis=(2, 3)) / weight.sum(axis=(2, 3))
    steps = np.diff(radius, axis=1)
    # Contraction is the quick one: the largest step is inwards. A sum of cubes is its sign.
    assert roc_auc_score(labels, (steps**3).sum(axis=1)) > 0.98
    # Optical flow sees it without a model of the ring: where brightness moved outwards.
    flow = np.diff(images, axis=1)
    outward = (flow * (distance - distance.mean())).sum(axis=(2, 3))
    assert roc_auc_score(labels, (outward**3).sum(axis=1)) > 0.9
    # Shuffled frames tell nothing.
    shuffled = np.random.default_rng(0).permuted(radius, axis=1)
    cubes = (np.diff(shuffled, axis=1) ** 3).sum(axis=1)
    assert abs(roc_auc_score(labels, cubes) - 0.5) < 3 * SPREAD


def test_speckle_is_rayleigh() -> None:
    """Mean over root mean square of a Rayleigh variable: sqrt(pi) / 2."""
    field = np.concatenate([_speckle(np.random.default_rng(n), 64).ravel() for n in range(40)])
    assert np.mean(field**2) == pytest.approx(1)
    assert np.mean(field) == pytest.approx(np.sqrt(np.pi) / 2, rel=0.01)
