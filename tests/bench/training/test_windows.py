"""Windows and whole images, against MONAI's sliding window inference and one case at a time."""

import numpy as np
import pytest
import torch
from monai.inferers.utils import sliding_window_inference
from torch import nn

from bench.core.processes import World
from bench.losses.table import LOSSES
from bench.study.choice import Choice
from bench.study.components import Component, model_row
from bench.training.evaluate import Evaluator, whole_sides
from bench.training.networks import build_model
from bench.training.train import make_sampler, run_trial
from bench.training.windows import Image, Part, importance, in_batches, places
from models.table import MODELS
from tests.trials import changed

CPU = torch.device("cpu")
WHOLE = [name for name, row in MODELS.items() if row.whole is not None]


def image_of(pixels, window, overlap, index=0):
    return Image(
        index=index,
        pixels=pixels.numpy(),
        on_device=pixels,
        inside=(slice(None),) * (pixels.dim() - 1),
        windows=places(tuple(pixels.shape[1:]), window, overlap),
    )


@pytest.mark.parametrize("overlap", [0.0, 0.25, 0.5])
@pytest.mark.parametrize(("shape", "window"), [((21, 40), (16, 16)), ((20, 24, 17), (16, 16, 16))])
def test_windows_come_together_as_monai_puts_them(shape, window, overlap):
    torch.manual_seed(0)
    convolution = {2: nn.Conv2d, 3: nn.Conv3d}[len(shape)]
    net = convolution(2, 3, 3, padding=1).eval()
    pixels = torch.randn(2, *shape)
    image, weight = image_of(pixels, window, overlap), importance(window, CPU)
    with torch.inference_mode():
        for parts in in_batches([Part(image, p) for p in image.windows], 4 * weight.numel()):
            logits = net(torch.stack([part.pixels for part in parts]))
            for part, said in zip(parts, logits, strict=True):
                image.take(part.place, said, None, weight)
        expected = sliding_window_inference(
            pixels[None], window, 4, net, overlap=overlap, mode="gaussian"
        )
    assert torch.equal(image.logits, expected[0])


def test_parts_go_together_by_size_and_to_the_last():
    small, large = (torch.zeros(1, 8, side) for side in (8, 16))
    images = [image_of(p, tuple(p.shape[1:]), 0.0, n) for n, p in enumerate([small] * 3 + [large])]
    parts = [Part(image, image.windows[0]) for image in images]
    parts = [*parts, parts[0]]

    def taken(voxels):
        return [[part.image.index for part in batch] for batch in in_batches(parts, voxels)]

    assert taken(128) == [[0, 1], [2], [3], [0]]
    assert taken(1) == [[0], [1], [2], [3], [0]]
    assert taken(10_000) == [[0, 1, 2], [3], [0]]


def evaluator(made, name="unet_small", inference="windows", **changes):
    trial, data, base = made
    trial = changed(trial, model=Choice(name=name), inference=inference, **changes)
    torch.manual_seed(0)
    kind = model_row(name, {}, base)
    return Evaluator(
        trial=trial,
        store=data.store,
        sampler=make_sampler(trial, data, 0),
        model=build_model(
            Component(row=kind.row, identity=name, settings=kind.row.settings),
            data.store.path,
            trial.patch,
        ),
        criterion=LOSSES["dice_ce"].bind({}),
        weights=None,
        device=CPU,
        world=World(),
        whole=whole_sides(trial, kind.row),
    )


def near(one, other):
    """Return whether two values, or lists of them, are within 1e-6."""
    if isinstance(one, list):
        return len(one) == len(other) and all(map(near, one, other))
    if isinstance(one, float):
        return one == pytest.approx(other, rel=1e-6, abs=1e-6)
    return one == other


@pytest.mark.parametrize("inference", ["windows", "whole"])
@pytest.mark.parametrize(
    ("dims", "side", "patch"),
    [(2, 16, (24, 24)), (2, 16, (16, 16)), (3, 16, (16, 16, 16))],
)
def test_cases_together_score_as_each_alone(make_trial, inference, dims, side, patch):
    """Within 1e-6: the network's kernels round by the size of the batch."""
    many = evaluator(
        make_trial("segmentation", dims, side), inference=inference, patch=patch, batch_size=8
    )
    cases = np.arange(10)
    together = many.score(cases, final=True)
    alone = [many.score(cases[n : n + 1], final=True) for n in range(10)]
    assert together.loss == pytest.approx(np.mean([one.loss for one in alone]), rel=1e-6)
    rows = [row for one in alone for row in one.cases]
    for mine, theirs in zip(together.cases, rows, strict=True):
        assert mine.keys() == theirs.keys()
        assert [key for key in mine if not near(mine[key], theirs[key])] == []


def test_small_cases_go_through_the_network_together(make_trial, monkeypatch):
    sizes = []
    own = Evaluator.outputs
    monkeypatch.setattr(
        Evaluator, "outputs", lambda self, image: sizes.append(len(image)) or own(self, image)
    )
    made = evaluator(make_trial("segmentation", 2, 16), patch=(24, 24), batch_size=8)
    made.score(np.arange(20), final=False)
    assert sizes == [8, 8, 4]


def test_a_case_of_the_patch_is_the_same_whole_as_in_one_window(make_trial):
    made = make_trial("segmentation", 2, 16)
    cases = np.flatnonzero((made[1].store.shapes == 16).all(axis=1))
    assert len(cases) > 1
    windows, whole = (
        evaluator(made, inference=each).score(cases, final=False) for each in ("windows", "whole")
    )
    assert whole.loss == windows.loss
    assert whole.cases == windows.cases


def test_a_whole_case_is_what_the_network_says_of_all_of_it(make_trial):
    made = evaluator(make_trial("segmentation", 3, 16), inference="whole")
    for index in (0, 1, 2):
        score = made.score(np.array([index]), final=True)
        raw = made.store.image(index)
        sides = [-(-max(s, 16) // 4) * 4 for s in raw.shape[1:]]
        before = [(side - s) // 2 for side, s in zip(sides, raw.shape[1:], strict=True)]
        width = [(b, side - s - b) for b, side, s in zip(before, sides, raw.shape[1:], strict=True)]
        canvas = np.pad(raw, [(0, 0), *width], mode="symmetric")
        inside = tuple(slice(b, b + s) for b, s in zip(before, raw.shape[1:], strict=True))
        draws = made.sampler.centre(np.array([index]))
        shape = (-1, 1, 1, 1)
        pixels = (canvas - draws.offset[0].reshape(shape)) * draws.gain[0].reshape(shape)
        with torch.inference_mode():
            logits = made.model.eval()(torch.from_numpy(pixels.astype(np.float32))[None])
        found = logits[0][(slice(None), *inside)].argmax(0).numpy()
        rows = {row["region"]: row for row in score.cases}
        assert rows["whole"]["n_pred"] == np.isin(found, (1, 2)).sum()
        assert rows["core"]["n_pred"] == (found == 2).sum()
        assert rows["core"]["tp"] == ((found == 2) & (made.store.mask(index) == 2)).sum()


@pytest.mark.parametrize(
    ("name", "dims"),
    [
        pytest.param(
            name, dims, marks=pytest.mark.slow if (name, dims) == ("swin_unetr", 3) else ()
        )
        for name in WHOLE
        for dims in (2, 3)
    ],
)
def test_networks_that_take_whole_images_take_any_of_their_multiples(name, dims):
    row = MODELS[name]
    patch = tuple(max(side, row.min_size) for side in (16, 32, 32)[-dims:])
    multiple = row.whole(patch)
    torch.manual_seed(0)
    net = row.build(in_channels=1, out_channels=2, dims=dims, patch=patch).eval()
    sides = tuple(p + (n + 1) * m for n, (p, m) in enumerate(zip(patch, multiple, strict=True)))
    with torch.inference_mode():
        logits = net(torch.randn(1, 1, *sides))
    assert logits.shape == (1, 2, *sides)
    assert torch.isfinite(logits).all()
    assert all(p % m == 0 for p, m in zip(patch, multiple, strict=True))


def test_a_network_planned_from_the_patch_halves_its_sides_as_the_plan_says():
    # By hand: 16 is halved twice (to 4), 64 four times.
    assert MODELS["dynunet"].whole((16, 64, 64)) == (4, 16, 16)


def test_every_segmenting_network_says_whether_it_takes_whole_images():
    segment = [name for name, row in MODELS.items() if "segmentation" in row.tasks]
    # What `both` says of a patch, it says of a mean over the patch; UNETR learns the positions of
    # its patch.
    assert set(segment) - set(WHOLE) == {"unet_resnet_both", "unetr"}


def test_a_trial_is_scored_whole_from_the_first_look_to_the_test(make_trial, monkeypatch):
    trial, data, base = make_trial("segmentation", 3, 16, epochs=2, inference="whole")
    seen = []
    own = Evaluator.outputs
    monkeypatch.setattr(
        Evaluator,
        "outputs",
        lambda self, image: seen.append(tuple(image.shape[2:])) or own(self, image),
    )
    outcome = run_trial(trial, data, base, device=CPU)
    assert outcome.trial["inference"] == "whole"
    shapes = data.store.shapes
    split = data.split(trial.repeat, trial.fold)
    padded = {tuple((-(-np.maximum(s, 16) // 4) * 4).tolist()) for s in shapes[split.inner]}
    assert padded <= set(seen)
    assert len(seen) <= 3 * len(split.inner) + 2 * len(split.test)
