"""What every row of the table of networks keeps, whatever its family.

What only depends on shapes is tested on the meta device, where a network of any size costs nothing.
"""

import subprocess
import sys
from copy import deepcopy
from dataclasses import replace
from itertools import pairwise, product

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode, conv_flop_count

from bench.losses.supervision import logits_of
from models.classification.cnn import POOLS
from models.output import Output
from models.spec import Model
from models.table import MODELS

# A row that is in no table: the contract below needs no edit to meet it.
NEWCOMER = replace(MODELS["unet_small"], name="newcomer", dims=(2,), divisor=8, min_size=16)
ROWS = [*MODELS.values(), NEWCOMER]

# Seconds to build, or to train: their turn comes with the slow tests.
MANY_WEIGHTS = {
    "vgg16",
    "resnet34",
    "resnet50",
    "inception_v3",
    "resnet18-3d",
    "densenet121-3d",
    "unet_resnet_both-3d",
    "efficientnet_v2_s",
    "convnext_tiny",
    "vit_s16",
    "vit_b16",
    "resenc_unet",
    "unetr",
    "swin_unetr",
}
MANY_LAYERS = MANY_WEIGHTS | {
    "densenet121",
    "mobilenet_v3_small",
    "mobilenet_v3_large",
    "efficientnet_b0",
    "resnet18",
    "unet_resnet_both",
    "cnn_lstm",
    "frame_cnn",
    "segresnet",
    "mednext_s",
    "attention_unet",
    "unet_res",
}

# Of MedMNIST and of the demo, flat ones, and the papers' largest. The others are drawn below.
SIZES = {2: [(28, 28), (512, 512)], 3: [(12, 24, 24), (24, 24, 24), (16, 32, 32), (32, 64, 64)]}
MEMORY = {4: torch.channels_last, 5: torch.channels_last_3d}


def uses(*, slow: set[str] = frozenset()) -> list:
    return [
        pytest.param(
            row,
            task,
            dims,
            id=f"{row.name}-{task}-{dims}d",
            marks=pytest.mark.slow if {row.name, f"{row.name}-{dims}d"} & slow else (),
        )
        for row in ROWS
        for task in row.tasks
        for dims in row.dims
    ]


def fits(row: Model, task: str, patch: tuple[int, ...]) -> bool:
    return row.unfit(task=task, dims=len(patch), patch=patch) is None


def smallest(row: Model, task: str, dims: int) -> tuple[int, ...]:
    """Return the least patch that fits, of 8 pixels a side or more."""
    sides = range(-(-8 // row.divisor) * row.divisor, 100, row.divisor)
    patches = ((*[side] * (dims - 1), side * longer) for side, longer in product(sides, (1, 2)))
    return next(patch for patch in patches if fits(row, task, patch))


def build(row: Model, task: str, patch: tuple[int, ...], *, seed: int = 0) -> nn.Module:
    assert fits(row, task, patch)
    torch.manual_seed(seed)
    return row.build(in_channels=2, out_channels=3, dims=len(patch), patch=patch)


def build_shapes(row: Model, patch: tuple[int, ...], *, out_channels: int = 3) -> nn.Module:
    with torch.device("meta"):
        return row.build(in_channels=2, out_channels=out_channels, dims=len(patch), patch=patch)


def as_output(given: Tensor | Output) -> Output:
    return given if isinstance(given, Output) else Output(given)


def everything(given: Tensor | Output) -> list[Tensor]:
    """Return all that a network gave."""
    logits, deep, presence = as_output(given)
    return [logits, *deep, *([] if presence is None else [presence])]


def targets(task: str, patch: tuple[int, ...], n: int, generator: torch.Generator) -> Tensor:
    """Return classes (n,), or label maps (n, *patch) made of three bands."""
    if task == "classification":
        return torch.arange(n) % 3
    bands = torch.arange(patch[-1]) * 3 // patch[-1]
    shift = torch.randint(3, (n,), generator=generator).reshape(n, *[1] * len(patch))
    return ((bands + shift) % 3).expand(n, *patch).contiguous()


# ---------------------------------------------------------------- what a row says


def test_every_row_is_filed_under_its_name() -> None:
    assert all(name == row.name for name, row in MODELS.items())
    assert len(MODELS) >= 20
    for row in MODELS.values():
        assert row.summary
        assert row.source
        assert (row.weights is None) == (row.first is None)
        assert set(row.choices) <= set(row.settings)


def test_unfit_says_what_would_fit() -> None:
    unet, plain = MODELS["unet"], MODELS["plain_cnn"]
    assert unet.unfit(task="segmentation", dims=2, patch=(28, 28)) == (
        "model unet takes patches whose sides are multiples of 8 and at least 16, not 28 x 28; "
        "32 x 32 fits"
    )
    assert plain.unfit(task="segmentation", dims=2, patch=(28, 28)) == (
        "model plain_cnn is for classification, not for segmentation"
    )
    assert plain.unfit(task="classification", dims=2, patch=(4, 28)) == (
        "model plain_cnn takes patches whose sides are multiples of 1 and at least 8, not 4 x 28; "
        "8 x 28 fits"
    )
    assert NEWCOMER.unfit(task="segmentation", dims=3, patch=(16, 16, 16)) == (
        "model newcomer takes 2-D images, not 3-D ones"
    )
    assert unet.unfit(task="segmentation", dims=3, patch=(16, 16)) == (
        "a patch of 3-D images has 3 sides; (16, 16) has 2"
    )
    assert MODELS["mednext_s"].unfit(task="segmentation", dims=2, patch=(16, 16)) == (
        "model mednext_s would bring 16 x 16 down to one voxel; take a larger patch"
    )


def test_options_that_a_row_does_not_take() -> None:
    plain = MODELS["plain_cnn"]
    with pytest.raises(ValueError, match="plain_cnn has no pool 'mean'; choices: max, average"):
        replace(plain, settings={**plain.settings, "pool": "mean"})
    with pytest.raises(ValueError, match=r"dropout must be from 0 to below 1, not 1\.5"):
        replace(plain, settings={**plain.settings, "dropout": 1.5})


def test_choices_are_those_of_the_network() -> None:
    assert MODELS["plain_cnn"].choices == {"pool": tuple(POOLS)}


def test_the_table_is_light_to_import() -> None:
    code = "import sys, models.table; print(*{'monai', 'torchvision', 'torch'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


# ---------------------------------------------------------------- shapes


@pytest.mark.parametrize(("row", "task", "dims"), uses(slow=MANY_LAYERS))
def test_logits_have_the_shape_of_the_task(row: Model, task: str, dims: int) -> None:
    least = smallest(row, task, dims)
    patches = [least, (*least[:-1], 3 * least[-1]), *SIZES[dims]]
    fitting = [patch for patch in patches if fits(row, task, patch)]
    assert len(fitting) > 2
    for patch in fitting:
        full = (3,) if task == "classification" else (3, *patch)
        network = build_shapes(row, patch)
        trained = as_output(network(torch.empty(2, 2, *patch, device="meta")))
        assert trained.logits.shape == (2, *full)
        sides = [level.shape[2:] for level in (trained.logits, *trained.deep)]
        assert all(level.shape[:2] == (2, 3) for level in trained.deep)
        assert all(finer > coarser for finer, coarser in pairwise(sides))

        given = network.eval()(torch.empty(1, 2, *patch, device="meta"))
        scored = as_output(given)
        assert scored.logits.shape == (1, *full)
        assert scored.deep == ()
        if trained.presence is None:
            assert isinstance(given, Tensor)
        else:
            assert trained.presence.shape == (2, 3)
            assert scored.presence is not None
            assert scored.presence.shape == (1, 3)


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
@pytest.mark.parametrize(("row", "task", "dims"), uses(slow=MANY_LAYERS))
def test_what_is_not_unfit_runs(row: Model, task: str, dims: int, data: st.DataObject) -> None:
    side = st.integers(4, 80 if dims == 2 else 40)
    patch = data.draw(st.tuples(*[side] * dims))
    reason = row.unfit(task=task, dims=dims, patch=patch)
    if reason is not None:
        seen = patch[1:] if row.encoders else patch
        assert " x ".join(map(str, seen)) in reason
        return
    network = build_shapes(row, patch)
    logits, *_ = as_output(network(torch.empty(2, 2, *patch, device="meta")))
    assert logits.shape == ((2, 3) if task == "classification" else (2, 3, *patch))


@pytest.mark.slow
@pytest.mark.parametrize(("row", "task", "dims"), uses())
def test_the_largest_input(row: Model, task: str, dims: int) -> None:
    patch = (512, 512) if dims == 2 else (64, 96, 96)
    network = build(row, task, patch).eval()
    with torch.inference_mode():
        logits, *_ = as_output(network(torch.randn(1, 2, *patch)))
    assert logits.shape == ((1, 3) if task == "classification" else (1, 3, *patch))
    assert logits.isfinite().all()


# ---------------------------------------------------------------- stages


@pytest.mark.parametrize(("row", "task", "dims"), uses())
def test_stages_cover_every_parameter_from_input_to_head(row: Model, task: str, dims: int) -> None:
    patch = (32,) * dims
    patch = patch if fits(row, task, patch) else smallest(row, task, dims)
    network = build_shapes(row, patch)
    stages = row.stages(network)
    names = [name for name, _ in network.named_parameters()]
    of = {n: [s for s in stages if n == s or n.startswith(f"{s}.")] for n in names}
    assert all(len(found) == 1 for found in of.values())
    assert {found[0] for found in of.values()} == set(stages)
    if row.first is not None:
        assert row.first in names
        # `both` joins its ResNet at the first layer; in 3-D MONAI's names are torchvision's too
        assert of[row.first] == [stages[0]]

    # In the order in which they are first called.
    called: list[str] = []
    modules = tuple(stage for stage in stages if stage not in names)
    for stage in modules:
        for module in network.get_submodule(stage).modules():
            module.register_forward_pre_hook(lambda *_, stage=stage: called.append(stage))
    network(torch.empty(2, 2, *patch, device="meta"))
    assert tuple(dict.fromkeys(called)) == modules

    # What depends on the number of classes stands in the last one.
    wider = dict(build_shapes(row, patch, out_channels=5).named_parameters())
    changed = {n for n, p in network.named_parameters() if p.shape != wider[n].shape}
    assert changed
    assert all(of[name] == [stages[-1]] for name in changed)


# ---------------------------------------------------------------- weights and training


@pytest.mark.parametrize(("row", "task", "dims"), uses(slow=MANY_WEIGHTS))
def test_the_seed_decides_the_weights(row: Model, task: str, dims: int) -> None:
    patch = smallest(row, task, dims)
    one, same, other = (
        torch.cat([p.flatten() for p in build(row, task, patch, seed=s).parameters()])
        for s in (0, 0, 1)
    )
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


@pytest.mark.timeout(1200)
@pytest.mark.parametrize(("row", "task", "dims"), uses(slow=MANY_LAYERS))
def test_every_parameter_takes_part_and_a_step_repeats(row: Model, task: str, dims: int) -> None:
    # DistributedDataParallel waits for ever for the gradient of a parameter that is not used.
    patch = smallest(row, task, dims)
    network = build(row, task, patch)
    image = torch.randn(2, 2, *patch)

    def gradients(*, bfloat16: bool) -> dict[str, Tensor | None]:
        twin = deepcopy(network)
        torch.manual_seed(1)
        with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
            value = sum(part.float().square().mean() for part in everything(twin(image)))
        assert isinstance(value, Tensor)
        value.backward()
        return {name: parameter.grad for name, parameter in twin.named_parameters()}

    first, second = (gradients(bfloat16=False) for _ in range(2))
    for name, gradient in first.items():
        again = second[name]
        assert gradient is not None, name
        assert again is not None
        assert gradient.isfinite().all(), name
        assert torch.equal(gradient, again), name
    # Without oneDNN, whose weight gradient of small 3-D convolutions reads memory that nobody wrote
    # on some processors (LOG.md, 27 November 2026).
    with torch.backends.mkldnn.flags(enabled=False):
        rounded = gradients(bfloat16=True)
    for name, gradient in rounded.items():
        assert gradient is not None, name
        assert gradient.isfinite().all(), name


@pytest.mark.parametrize(("row", "task", "dims"), uses(slow=MANY_WEIGHTS))
def test_one_image_in_each_precision_and_order_of_memory(row: Model, task: str, dims: int) -> None:
    patch = smallest(row, task, dims)
    network = build(row, task, patch).eval()
    image = torch.randn(1, 2, *patch)

    def logits(precise: bool = True) -> Tensor:
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=not precise):
            return as_output(network(image)).logits

    exact = logits()
    assert exact.dtype == torch.float32
    assert exact.isfinite().all()
    assert torch.equal(exact, logits())
    scale = exact.abs().max().clamp(min=1e-3)
    # bfloat16 keeps 8 bits; networks of 100 layers lose some of them.
    assert (logits(precise=False).float() - exact).abs().max() < 0.2 * scale
    for parameter in network.parameters():
        if parameter.dim() in MEMORY:
            parameter.data = parameter.data.contiguous(memory_format=MEMORY[parameter.dim()])
    image = image.contiguous(memory_format=MEMORY[image.dim()])
    assert (logits() - exact).abs().max() < 1e-4 * scale


@pytest.mark.slow
@pytest.mark.parametrize(("row", "task", "dims"), uses())
def test_compiled_it_is_the_same_network(row: Model, task: str, dims: int) -> None:
    # As one graph, but for the LSTM, which torch leaves out of its graphs. "eager" runs the graph
    # by the same kernels.
    patch = smallest(row, task, dims)
    network = build(row, task, patch).eval()
    image = torch.randn(2, 2, *patch)
    recurrent = any(isinstance(module, nn.LSTM) for module in network.modules())
    torch.compiler.reset()
    compiled = torch.compile(network, backend="eager", dynamic=False, fullgraph=not recurrent)
    with torch.inference_mode():
        graph, plain = as_output(compiled(image)).logits, as_output(network(image)).logits
    if any(isinstance(module, nn.MultiheadAttention) for module in network.modules()):
        # Outside of a graph torch's attention takes a kernel of its own when nothing is trained.
        torch.testing.assert_close(graph, plain, atol=1e-5, rtol=1e-5)
    else:
        assert torch.equal(graph, plain)
    assert type(compiled.train()(image)) is type(network.train()(image))


@pytest.mark.parametrize(
    ("row", "task", "dims"),
    [u for u in uses(slow=MANY_WEIGHTS) if "dropout" in u.values[0].settings],
)
def test_dropout_acts_in_training_alone(row: Model, task: str, dims: int) -> None:
    patch = smallest(row, task, dims)
    image = torch.randn(2, 2, *patch)
    given = []
    for rate in (0.0, 0.5):
        dropping = replace(row, settings={**row.settings, "dropout": rate})
        network = build(dropping, task, patch)
        with torch.no_grad():
            scored = everything(network.eval()(image))
            torch.manual_seed(1)
            given.append((everything(network.train()(image)), scored))
    (kept, plainly), (dropped, evenly) = given
    assert all(torch.equal(a, b) for a, b in zip(plainly, evenly, strict=True))
    assert any(not torch.equal(a, b) for a, b in zip(kept, dropped, strict=True))


@pytest.mark.timeout(1200)  # Swin UNETR in 3-D takes minutes on one busy core, here and above
@pytest.mark.parametrize(("row", "task", "dims"), uses(slow=MANY_LAYERS))
def test_overfits_one_batch(row: Model, task: str, dims: int) -> None:
    patch = smallest(row, task, dims)
    generator = torch.Generator().manual_seed(0)
    target = targets(task, patch, 4, generator)
    image = torch.randn(4, 2, *patch, generator=generator)
    if task == "segmentation":  # what is to be found can be seen, under noise
        image[:, 0] += target
    network = build(row, task, patch)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    losses = []
    for _ in range(300):
        optimizer.zero_grad()
        loss = F.cross_entropy(as_output(network(image)).logits, target)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        if losses[-1] < 0.2 * losses[0]:
            break
    assert losses[-1] < 0.2 * losses[0]


def of_transposed(image, weight, *_settings, out_shape, **_named) -> int:
    """Return the operations of a transposed convolution as torch counts those of its own name."""
    return conv_flop_count(image, weight, out_shape, transposed=True)


# torch counts a convolution by its general name alone; `models/segmentation/few_channels.py`.
BY_PRODUCT = {
    torch.ops.aten.slow_conv_transpose2d: of_transposed,
    torch.ops.aten.slow_conv_transpose3d: of_transposed,
}


@pytest.mark.parametrize(("row", "task", "dims"), uses(slow=MANY_LAYERS))
def test_operations_counted_without_computing_are_those_of_a_real_pass(row, task, dims):
    patch = smallest(row, task, dims)
    counts = []
    for device in ("meta", "cpu"):
        with torch.device(device):
            network = row.build(in_channels=1, out_channels=2, dims=dims, patch=patch).eval()
            with FlopCounterMode(display=False, custom_mapping=BY_PRODUCT) as counter:
                logits_of(network(torch.zeros(1, 1, *patch))).sum().backward()
        counts.append(counter.get_total_flops())
    assert counts[0] == counts[1] > 0
