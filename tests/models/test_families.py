"""Each family of networks against its paper, its library and hand counts."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn
from torch.nn import functional as F

from models.classification.pooling import MaxPool
from models.output import Output
from models.segmentation.dynunet import plan
from models.spec import Model
from models.table import MODELS


def count(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


def shapes(
    name: str, *, dims: int, patch: tuple[int, ...], channels: int, classes: int
) -> nn.Module:
    """Return a network without values, for counting."""
    with torch.device("meta"):
        return MODELS[name].build(
            in_channels=channels, out_channels=classes, dims=dims, patch=patch
        )


def weights_of(row: Model) -> list[str]:
    return [] if row.weights is None else [row.name]


PRETRAINED = [name for row in MODELS.values() for name in weights_of(row)]
CLASSIFIERS = [name for name in PRETRAINED if MODELS[name].tasks == ("classification",)]


# ---------------------------------------------------------------- published counts

# Millions of parameters, for 3 channels and 1000 classes unless the source says otherwise.
PUBLISHED = [
    # torchvision's documentation of the weights
    ("resnet18", 2, (224,) * 2, 3, 1000, 11.690),
    ("resnet34", 2, (224,) * 2, 3, 1000, 21.798),
    ("resnet50", 2, (224,) * 2, 3, 1000, 25.557),
    ("densenet121", 2, (224,) * 2, 3, 1000, 7.979),
    ("vgg16", 2, (224,) * 2, 3, 1000, 138.366),
    ("mobilenet_v3_small", 2, (224,) * 2, 3, 1000, 2.543),
    ("mobilenet_v3_large", 2, (224,) * 2, 3, 1000, 5.483),
    ("efficientnet_b0", 2, (224,) * 2, 3, 1000, 5.289),
    ("efficientnet_v2_s", 2, (224,) * 2, 3, 1000, 21.458),
    ("convnext_tiny", 2, (224,) * 2, 3, 1000, 28.589),
    ("vit_b16", 2, (224,) * 2, 3, 1000, 86.568),
    # Touvron et al. 2021, table 1, DeiT-S, and timm's results for vit_small_patch16_224
    ("vit_s16", 2, (224,) * 2, 3, 1000, 22.05),
    # Hatamizadeh et al. 2022 (UNETR), table 3
    ("unetr", 3, (96,) * 3, 1, 14, 92.58),
    # Hatamizadeh et al. 2022 (Swin UNETR), table 1
    ("swin_unetr", 3, (96,) * 3, 1, 14, 61.98),
    # Szegedy et al. 2016 "less than 25 million"; 27.161 of torchvision less its auxiliary head,
    # 128 * 768 + 2 * 128 + 25 * 128 * 768 + 2 * 768 + 769 * 1000
    ("inception_v3", 2, (299,) * 2, 3, 1000, 23.835),
    # MedNeXt's repository, README: S with kernel 3
    ("mednext_s", 3, (128,) * 3, 1, 14, 5.6),
    # segmentation_models_pytorch, Unet("resnet18"): 14,328,209; the presence head adds 513
    ("unet_resnet_both", 2, (224,) * 2, 3, 1, 14.3287),
    # MedicalNet's repository, README, 3D-ResNet18, 34 and 50; its first two have shortcuts without
    # weights, 0.17 million here
    ("resnet18", 3, (96,) * 3, 1, 2, 32.99),
    ("resnet34", 3, (96,) * 3, 1, 2, 63.31),
    ("resnet50", 3, (96,) * 3, 1, 2, 46.21),
]


@pytest.mark.parametrize(("name", "dims", "patch", "channels", "classes", "millions"), PUBLISHED)
def test_parameters_as_published(
    name: str, dims: int, patch: tuple[int, ...], channels: int, classes: int, millions: float
) -> None:
    network = shapes(name, dims=dims, patch=patch, channels=channels, classes=classes)
    assert count(network) == pytest.approx(1e6 * millions, rel=0.01)


@pytest.mark.parametrize("name", PRETRAINED)
def test_the_names_of_imagenet_weights_fit(name: str) -> None:
    from torchvision.models import get_model, get_weight

    row = MODELS[name]
    assert row.weights is not None
    published = get_weight(row.weights)
    maker = row.weights.partition("_Weights")[0].lower()
    with torch.device("meta"):
        theirs = get_model(maker, weights=None, **AUXILIARY.get(maker, {})).state_dict()
    if name not in ("inception_v3", "unet_resnet_both"):  # an auxiliary head; a decoder
        ours = shapes(name, dims=2, patch=(224, 224), channels=3, classes=1000)
        assert count(ours) == published.meta["num_params"]
    for patch in ((224, 224), (28, 28)):
        network = shapes(name, dims=2, patch=patch, channels=3, classes=1000)
        own, head = network.state_dict(), row.stages(network)[-1]
        body = {n: v.shape for n, v in own.items() if not n.startswith((head, "decoder."))}
        missing = {n for n, shape in body.items() if n not in theirs or theirs[n].shape != shape}
        # Only stems of other kernels cannot take them.
        assert missing <= ({row.first} if max(patch) < 64 else set())
        assert row.first in own


AUXILIARY = {"inception_v3": {"aux_logits": False, "init_weights": True}}


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(n, marks=pytest.mark.slow if n in ("vgg16", "vit_b16") else ())
        for n in CLASSIFIERS
    ],
)
def test_2d_classifiers_are_torchvisions(name: str) -> None:
    from torchvision.models import get_model

    row = MODELS[name]
    assert row.weights is not None
    maker = row.weights.partition("_Weights")[0].lower()
    torch.manual_seed(0)
    theirs = get_model(maker, weights=None, num_classes=7, **AUXILIARY.get(maker, {})).eval()
    side = 224 if name == "vit_b16" else 96  # torchvision's takes images of one size
    ours = row.build(in_channels=3, out_channels=7, dims=2, patch=(side, side)).eval()
    ours.load_state_dict(theirs.state_dict())
    image = torch.randn(2, 3, side, side)
    with torch.no_grad():
        assert torch.equal(ours(image), theirs(image))


@pytest.mark.parametrize("name", ["resnet18", "resnet34", "resnet50", "densenet121"])
def test_3d_networks_have_the_layers_of_the_2d_ones(name: str) -> None:
    flat = shapes(name, dims=2, patch=(224,) * 2, channels=3, classes=10)
    deep = shapes(name, dims=3, patch=(96,) * 3, channels=3, classes=10)
    # Each k x k kernel becomes k x k x k; MONAI adds a bias to the ResNets' 1 x 1 shortcuts.
    kernels = [m.weight for m in flat.modules() if isinstance(m, nn.Conv2d)]
    biases = [m.bias for m in deep.modules() if isinstance(m, nn.Conv3d) and m.bias is not None]
    shortcuts = {"resnet18": 3, "resnet34": 3, "resnet50": 4, "densenet121": 0}
    assert len(biases) == shortcuts[name]
    grown = sum(w.numel() * (w.shape[-1] - 1) for w in kernels)
    assert count(deep) == count(flat) + grown + sum(b.numel() for b in biases)


# ---------------------------------------------------------------- small images


def last_map(network: nn.Module, layer: str, image: Tensor) -> tuple[int, ...]:
    """Return the sides of what a layer gives."""
    seen: list[torch.Size] = []
    network.get_submodule(layer).register_forward_hook(lambda *call: seen.append(call[2].shape))
    network.eval()(image)
    return tuple(seen[0][2:])


@pytest.mark.parametrize(
    ("name", "layer", "small", "large"),
    [
        # sides of the last map at 24 (three halvings without, five with the stem's) and at 96
        ("resnet18", "layer4", 3, 3),
        ("resnet50", "layer4", 3, 3),
        ("densenet121", "features", 3, 3),
        ("mobilenet_v3_small", "features", 3, 3),
        ("mobilenet_v3_large", "features", 3, 3),
        ("efficientnet_b0", "features", 3, 3),
        ("efficientnet_v2_s", "features", 3, 3),
        ("convnext_tiny", "features", 3, 3),
        # 24 -> 22 -> 20 -> 20 -> 18 -> 8 -> 3 -> 1; 96 -> 47 -> 45 -> 45 -> 22 -> 20 -> 9 -> 4 -> 1
        ("inception_v3", "Mixed_7c", 1, 1),
        ("vgg16", "features", 1, 3),
    ],
)
def test_stems_keep_the_resolution_of_small_images(
    name: str, layer: str, small: int, large: int
) -> None:
    for side, expected in ((24, small), (96, large)):
        network = shapes(name, dims=2, patch=(side, side), channels=1, classes=2)
        image = torch.empty(1, 1, side, side, device="meta")
        assert last_map(network, layer, image) == (expected, expected)


@pytest.mark.parametrize("name", ["resnet18", "densenet121"])
def test_stems_keep_the_resolution_of_small_volumes(name: str) -> None:
    layer = {"resnet18": "layer4", "densenet121": "features"}[name]
    for patch, expected in (((24,) * 3, (3,) * 3), ((96,) * 3, (3,) * 3)):
        network = shapes(name, dims=3, patch=patch, channels=1, classes=2)
        image = torch.empty(1, 1, *patch, device="meta")
        assert last_map(network, layer, image) == expected


@pytest.mark.parametrize(
    ("name", "patch", "strides"),
    [
        ("inception_v3", (21, 21), 1),
        ("inception_v3", (74, 200), 1),  # its short side would not last through the network
        ("inception_v3", (75, 75), 2),
        ("densenet121", (28, 100), 1),
        ("densenet121", (29, 100), 2),
        ("resnet18", (8, 100), 2),
        ("convnext_tiny", (31, 100), 1),
        ("convnext_tiny", (32, 100), 4),
    ],
)
def test_the_borders_of_small(name: str, patch: tuple[int, ...], strides: int) -> None:
    network = shapes(name, dims=2, patch=patch, channels=1, classes=2)
    first = MODELS[name].first
    assert first is not None
    stem = network.get_submodule(first.removesuffix(".weight"))
    assert isinstance(stem, nn.Conv2d)
    assert stem.stride == (strides, strides)
    assert network(torch.empty(2, 1, *patch, device="meta")).shape == (2, 2)


# ---------------------------------------------------------------- transformers


@pytest.mark.parametrize(
    ("patch", "tokens"),
    [
        ((28, 28), 7 * 7),  # of 4 pixels, and of 16 from 64 pixels on
        ((30, 45), 8 * 12),
        ((64, 30), 4 * 2),
        ((100, 75), 7 * 5),
        ((224, 224), 14 * 14),
    ],
)
def test_images_become_tokens(patch: tuple[int, ...], tokens: int) -> None:
    network = shapes("vit_s16", dims=2, patch=patch, channels=1, classes=2)
    seen: list[torch.Size] = []
    network.get_submodule("encoder.layers").register_forward_hook(
        lambda *call: seen.append(call[2].shape)
    )
    network(torch.empty(3, 1, *patch, device="meta"))
    assert seen == [(3, tokens + 1, 384)]


def as_timm(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the state of a ViT under timm's names."""
    parts = {
        "conv_proj.": "patch_embed.proj.",
        "class_token": "cls_token",
        "encoder.pos_embedding": "pos_embed",
        "encoder.layers.encoder_layer_": "blocks.",
        ".ln_": ".norm",
        "self_attention.in_proj_": "attn.qkv.",
        "self_attention.out_proj.": "attn.proj.",
        "mlp.0.": "mlp.fc1.",
        "mlp.3.": "mlp.fc2.",
        "encoder.ln.": "norm.",
        "heads.head.": "head.",
    }
    renamed = {}
    for name, value in state.items():
        new = name
        for ours, theirs in parts.items():
            new = new.replace(ours, theirs)
        renamed[new] = value
    return renamed


@pytest.mark.parametrize(
    "patch", [(224, 224), (96, 160), pytest.param((512, 400), marks=pytest.mark.slow)]
)
def test_the_small_vit_is_timms(patch: tuple[int, ...]) -> None:
    # timm interpolates the positions by functions of its own.
    import timm
    from timm.layers import resample_abs_pos_embed

    torch.manual_seed(0)
    ours = MODELS["vit_s16"].build(in_channels=3, out_channels=5, dims=2, patch=patch).eval()
    theirs = timm.create_model("vit_small_patch16_224", num_classes=5, img_size=patch).eval()
    state = as_timm(ours.state_dict())
    grid = [side // 16 for side in patch]
    state["pos_embed"] = resample_abs_pos_embed(state["pos_embed"], grid, num_prefix_tokens=1)
    theirs.load_state_dict(state)
    image = torch.randn(2, 3, *patch)
    with torch.no_grad():
        torch.testing.assert_close(ours(image), theirs(image), atol=1e-4, rtol=1e-4)


def test_what_is_padded_is_zeros_at_the_ends() -> None:
    torch.manual_seed(0)
    build = MODELS["vit_s16"].build
    whole = build(in_channels=1, out_channels=2, dims=2, patch=(28, 32)).eval()
    torch.manual_seed(0)
    cut = build(in_channels=1, out_channels=2, dims=2, patch=(26, 29)).eval()
    image = torch.zeros(1, 1, 28, 32)
    image[..., :26, :29] = torch.randn(1, 1, 26, 29)
    with torch.no_grad():
        assert torch.equal(cut(image[..., :26, :29]), whole(image))


@pytest.mark.slow
@pytest.mark.parametrize("patch", [(32, 64), (32, 32, 64)])
def test_unetr_and_swin_unetr_are_monais(patch: tuple[int, ...]) -> None:
    from monai.networks.nets.swin_unetr import SwinUNETR
    from monai.networks.nets.unetr import UNETR

    dims = len(patch)
    image = torch.randn(1, 2, *patch)
    for name, make in (
        ("unetr", lambda: UNETR(2, 3, patch, spatial_dims=dims)),
        ("swin_unetr", lambda: SwinUNETR(2, 3, feature_size=48, spatial_dims=dims)),
    ):
        torch.manual_seed(0)
        theirs = make().eval()
        torch.manual_seed(0)
        ours = MODELS[name].build(in_channels=2, out_channels=3, dims=dims, patch=patch).eval()
        with torch.no_grad():
            assert torch.equal(ours(image), theirs(image))


# ---------------------------------------------------------------- plain networks


def plain_cnn(patch: tuple[int, ...], **settings: str) -> nn.Sequential:
    row = MODELS["plain_cnn"]
    row = replace(row, settings={**row.settings, **settings})
    network = row.build(in_channels=1, out_channels=2, dims=len(patch), patch=patch)
    assert isinstance(network, nn.Sequential)
    return network


def test_plain_cnn_by_hand() -> None:
    network = plain_cnn((28, 28))
    # 28 -> 14 -> 7 -> 3; weights and biases of 3 convolutions and 2 fully connected layers
    convolutions = (9 * 1 * 16 + 16) + (9 * 16 * 32 + 32) + (9 * 32 * 64 + 64)
    assert count(network) == convolutions + (64 * 3 * 3 * 64 + 64) + (64 * 2 + 2)
    assert not any("Norm" in type(layer).__name__ for layer in network)


def test_plain_cnn_keeps_the_depth_of_a_flat_patch() -> None:
    network = plain_cnn((16, 32, 32))
    features = network[: next(i for i, m in enumerate(network) if isinstance(m, nn.Flatten))]
    assert features(torch.zeros(1, 1, 16, 32, 32)).shape[2:] == (4, 4, 4)


@pytest.mark.parametrize(
    ("pool", "layer", "value"), [("max", MaxPool, 3.0), ("average", nn.AvgPool2d, 1.5)]
)
def test_plain_cnn_pools_as_it_is_told(pool: str, layer: type[nn.Module], value: float) -> None:
    pools = [m for m in plain_cnn((28, 28), pool=pool) if "Pool" in type(m).__name__]
    assert len(pools) == 3
    assert all(type(m) is layer for m in pools)
    assert pools[0](torch.arange(4.0).reshape(1, 1, 2, 2)).item() == value


@pytest.mark.slow
def test_plain_cnn_learns_breast_ultrasound(shared_data) -> None:
    with np.load(shared_data / "breastmnist" / "breastmnist.npz", allow_pickle=False) as arrays:
        data = {name: arrays[name] for name in arrays.files}
    mean, std = data["train_images"].mean(), data["train_images"].std()

    def part(name: str) -> tuple[Tensor, Tensor]:
        image = torch.from_numpy((data[f"{name}_images"] - mean) / std).float()[:, None]
        return image, torch.from_numpy(data[f"{name}_labels"].ravel()).long()

    (image, label), (test_image, test_label) = part("train"), part("test")
    areas = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        network = plain_cnn((28, 28))
        optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
        for _ in range(25):
            for batch in torch.randperm(len(image)).split(32):
                x = torch.where(
                    torch.rand(len(batch), 1, 1, 1) < 0.5, image[batch].flip(-1), image[batch]
                )
                optimizer.zero_grad()
                F.cross_entropy(network(x), label[batch]).backward()
                optimizer.step()
        with torch.no_grad():
            malignant = network(test_image).softmax(1)[:, 0]
        areas.append(roc_auc_score(test_label == 0, malignant))
    # Published for ResNet-18 at this size: 0.901 (MedMNIST v2, table 3); standard error 0.03.
    assert np.mean(areas) > 0.83


# ---------------------------------------------------------------- U-Nets


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize(
    ("name", "channels"), [("unet", (16, 32, 64, 128)), ("unet_small", (8, 16, 32))]
)
def test_unet_by_hand(name: str, channels: tuple[int, ...], dims: int) -> None:
    kernel = 3**dims
    down = [kernel * i * o + o for i, o in pairwise((1, *channels))]
    # Upwards: a level's own channels and those that come from below, to those of the level above.
    into = [2 * own for own in channels[:-2]] + [channels[-2] + channels[-1]]
    up = [kernel * i * o + o for i, o in zip(into, (3, *channels), strict=False)]
    activations = len(down) + len(up) - 1  # one PReLU weight each; the last layer gives logits
    network = shapes(name, dims=dims, patch=(32,) * dims, channels=1, classes=3)
    assert count(network) == sum(down) + sum(up) + activations
    norms = [m for m in network.modules() if "Norm" in type(m).__name__]
    assert {type(m).__name__ for m in norms} == {f"InstanceNorm{dims}d"}


@pytest.mark.parametrize("dims", [2, 3])
def test_residual_unet_by_hand(dims: int) -> None:
    def convolution(into: int, out: int, width: int = 3) -> int:
        return width**dims * into * out + out

    def unit(into: int, out: int, *, strided: bool = True) -> int:
        # Two convolutions with a PReLU each; the shortcut is 3 wide where it strides, else 1 wide
        # where channels change.
        shortcut = convolution(into, out, 3 if strided else 1)
        return convolution(into, out) + convolution(out, out) + 2 + shortcut

    down = unit(1, 16) + unit(16, 32) + unit(32, 64) + unit(64, 128, strided=False)

    def up(into: int, out: int, *, last: bool = False) -> int:
        # A transposed convolution and a unit of one convolution, whose shortcut has no weights.
        return convolution(into, out) + 1 + convolution(out, out) + (0 if last else 1)

    ups = up(64 + 128, 32) + up(2 * 32, 16) + up(2 * 16, 3, last=True)
    network = shapes("unet_res", dims=dims, patch=(32,) * dims, channels=1, classes=3)
    assert count(network) == down + ups


@pytest.mark.parametrize("dims", [2, 3])
def test_attention_unet_by_hand(dims: int) -> None:
    def convolution(into: int, out: int, width: int = 3) -> int:
        return width**dims * into * out + out

    def norm(channels: int) -> int:
        return 2 * channels

    def pair(into: int, out: int) -> int:
        return convolution(into, out) + convolution(out, out) + 2 * norm(out)

    def level(own: int, below: int) -> int:
        half = own // 2
        gate = 2 * (convolution(own, half, 1) + norm(half)) + convolution(half, 1, 1) + norm(1)
        upwards = convolution(below, own) + norm(own)
        # The merging convolution keeps MONAI's default: PReLU, instance normalisation.
        return pair(own, below) + upwards + gate + convolution(2 * own, own) + 1

    expected = pair(1, 16) + level(16, 32) + level(32, 64) + level(64, 128) + convolution(16, 3, 1)
    network = shapes("attention_unet", dims=dims, patch=(32,) * dims, channels=1, classes=3)
    assert count(network) == expected


@pytest.mark.parametrize("dims", [2, 3])
def test_segresnet_by_hand(dims: int) -> None:
    def convolution(into: int, out: int, width: int = 3) -> int:
        return width**dims * into * out  # without bias

    def block(channels: int) -> int:
        return 2 * (convolution(channels, channels) + 2 * channels)

    expected = convolution(4, 16) + block(16)
    for width, blocks in ((32, 2), (64, 2), (128, 4)):
        expected += convolution(width // 2, width) + blocks * block(width)
    for width in (64, 32, 16):
        expected += convolution(2 * width, width, 1) + block(width)
    expected += 2 * 16 + convolution(16, 3, 1) + 3
    network = shapes("segresnet", dims=dims, patch=(32,) * dims, channels=4, classes=3)
    assert count(network) == expected


@pytest.mark.parametrize("dims", [2, 3])
def test_late_fusion_by_hand(dims: int) -> None:
    kernel = 3**dims
    unet = count(shapes("unet", dims=dims, patch=(32,) * dims, channels=1, classes=3))
    first = kernel * 1 * 16 + 16 + 1
    encoder = first + (kernel * 16 * 32 + 32 + 1) + (kernel * 32 * 64 + 64 + 1)
    fused = sum(4 * width * width + width + 1 for width in (16, 32, 64))
    late = shapes("unet_late", dims=dims, patch=(32,) * dims, channels=4, classes=3)
    assert count(late) == unet + 3 * encoder + fused


def test_late_fusion_lets_each_channel_down_on_its_own() -> None:
    torch.manual_seed(0)
    network = MODELS["unet_late"].build(in_channels=3, out_channels=2, dims=2, patch=(32, 32))
    lowest = network.get_submodule("encoders.2")
    maps: list[Tensor] = []
    for encoder in lowest.children():
        encoder.register_forward_hook(lambda *call: maps.append(call[2]))
    image = torch.randn(1, 3, 32, 32, requires_grad=True)
    logits = network(image)
    for channel, seen in enumerate(maps):
        (gradient,) = torch.autograd.grad(seen.square().sum(), image, retain_graph=True)
        touched = [bool(g.any()) for g in gradient[0]]
        assert touched == [other == channel for other in range(3)]
    (gradient,) = torch.autograd.grad(logits.square().sum(), image)
    assert all(bool(g.any()) for g in gradient[0])


# ---------------------------------------------------------------- deep supervision


@pytest.mark.parametrize(
    ("patch", "kernels", "strides"),
    [
        # nnU-Net halves cubes of 128 five times, down to 4
        ((128,) * 3, [(3, 3, 3)] * 6, [(1, 1, 1)] + [(2, 2, 2)] * 5),
        ((512, 512), [(3, 3)] * 8, [(1, 1)] + [(2, 2)] * 7),
        # voxels twice as thick as wide: the plane first, then all
        (
            (16, 32, 32),
            [(1, 3, 3), (3, 3, 3), (3, 3, 3), (3, 3, 3)],
            [(1, 1, 1), (1, 2, 2), (2, 2, 2), (2, 2, 2)],
        ),
        # odd after two halvings
        ((28, 28), [(3, 3)] * 3, [(1, 1), (2, 2), (2, 2)]),
        # a single axis is halved from 12 voxels on only
        ((8, 16), [(1, 3), (3, 3), (3, 3)], [(1, 1), (1, 2), (2, 2)]),
        ((8, 8), [(3, 3)] * 2, [(1, 1), (2, 2)]),
    ],
)
def test_the_plan_of_nnunet(patch, kernels, strides) -> None:
    assert plan(patch) == (kernels, strides)


def test_dynunet_by_hand() -> None:
    # nnU-Net's widths for six levels of a cube of 128; no bias but the heads', two affine norms a
    # level, transposed convolutions of 2 x 2 x 2.
    widths = (32, 64, 128, 256, 320, 320)

    def level(into: int, width: int) -> int:
        return 27 * (into * width + width * width) + 4 * width

    encoder = sum(level(into, width) for into, width in pairwise((4, *widths)))
    decoder = sum(8 * below * own + level(2 * own, own) for own, below in pairwise(widths))
    heads = sum(4 * width + 4 for width in widths[:4])
    network = shapes("dynunet", dims=3, patch=(128,) * 3, channels=4, classes=4)
    assert count(network) == encoder + decoder + heads


# MONAI follows nnU-Net's first version, whose decoder takes the kernels of the level below; the
# second, and ours, those of the level itself. They agree where all kernels are 3.
@pytest.mark.parametrize("patch", [(32, 32), (32, 32, 32)])
def test_dynunet_is_monais(patch: tuple[int, ...]) -> None:
    from monai.networks.nets.dynunet import DynUNet

    torch.manual_seed(0)
    ours = MODELS["dynunet"].build(in_channels=2, out_channels=3, dims=len(patch), patch=patch)
    kernels, strides = plan(patch)
    theirs = DynUNet(
        len(patch), 2, 3, kernels, strides, strides[1:], deep_supervision=True, deep_supr_num=1
    )
    deeper = len(kernels) - 2
    renamed = {
        "encoder.0.": "input_block.",
        **{f"encoder.{n + 1}.": f"downsamples.{n}." for n in range(deeper)},
        f"encoder.{deeper + 1}.": "bottleneck.",
        **{
            f"decoder.{n}.{mine}.": f"upsamples.{n}.{their}."
            for n in range(deeper + 1)
            for mine, their in (("enlarge", "transp_conv.conv"), ("convolutions", "conv_block"))
        },
        "heads.0.": "output_block.conv.conv.",
        "heads.1.": "deep_supervision_heads.0.conv.conv.",
    }
    state = {}
    for name, value in ours.state_dict().items():
        (prefix,) = (p for p in renamed if name.startswith(p))
        state[name.replace(prefix, renamed[prefix])] = value
    # MONAI has every block twice, the second time in its chain of skips.
    assert set(dict(theirs.named_parameters())) == set(state)
    theirs.load_state_dict(state, strict=False)

    image = torch.randn(1, 2, *patch)
    given, expected = ours(image), theirs(image)
    assert isinstance(given, Output)
    torch.testing.assert_close(given.logits, expected[:, 0])
    (deep,) = given.deep
    torch.testing.assert_close(F.interpolate(deep, patch), expected[:, 1])
    torch.testing.assert_close(ours.eval()(image), theirs.eval()(image))


def test_resenc_by_hand() -> None:
    # Six levels of a cube of 128; a convolution and a norm each, with bias but in the shortcuts,
    # which stand where channels change (poolings have no weights).
    widths, blocks = (32, 64, 128, 256, 320, 320), (1, 3, 4, 6, 6, 6)

    def convolution(into: int, out: int) -> int:
        return 27 * into * out + out + 2 * out

    encoder = convolution(4, 32)
    for into, width, depth in zip((32, *widths), widths, blocks, strict=False):
        shortcut = 0 if into == width else into * width + 2 * width
        encoder += convolution(into, width) + (2 * depth - 1) * convolution(width, width) + shortcut
    decoder = sum(
        8 * below * own + own + convolution(2 * own, own) for own, below in pairwise(widths)
    )
    heads = sum(4 * width + 4 for width in widths[:4])
    network = shapes("resenc_unet", dims=3, patch=(128,) * 3, channels=4, classes=4)
    assert count(network) == encoder + decoder + heads


@pytest.mark.parametrize("patch", [(32, 48), pytest.param((16, 32, 32), marks=pytest.mark.slow)])
def test_resenc_is_its_librarys(patch: tuple[int, ...]) -> None:
    from dynamic_network_architectures.architectures.unet import ResidualEncoderUNet

    dims = len(patch)
    kernels, strides = plan(patch)
    levels = len(kernels)
    torch.manual_seed(0)
    theirs = ResidualEncoderUNet(
        2,
        levels,
        [32, 64, 128, 256, 512][:levels] if dims == 2 else [32, 64, 128, 256, 320][:levels],
        {2: nn.Conv2d, 3: nn.Conv3d}[dims],
        kernels,
        strides,
        [1, 3, 4, 6, 6][:levels],
        3,
        [1] * (levels - 1),
        True,
        {2: nn.InstanceNorm2d, 3: nn.InstanceNorm3d}[dims],
        {"eps": 1e-5, "affine": True},
        None,
        None,
        nn.LeakyReLU,
        {"inplace": True},
        deep_supervision=True,
    )
    ours = MODELS["resenc_unet"].build(in_channels=2, out_channels=3, dims=dims, patch=patch)
    # nnU-Net's names; the lowest head, and each level under a second name, stay behind.
    mine, given = ours.state_dict(), theirs.state_dict()
    assert set(mine) < set(given)
    ours.load_state_dict({name: given[name] for name in mine})
    image = torch.randn(1, 2, *patch)
    own, expected = ours(image), theirs(image)
    assert isinstance(own, Output)
    assert len(own.deep) == levels - 3
    for one, other in zip((own.logits, *own.deep), expected, strict=False):
        assert torch.equal(one, other)
    assert torch.equal(ours.eval()(image), own.logits)


def test_resenc_starts_as_nnunet_does() -> None:
    # Residual blocks begin as their shortcut: the norm before the sum is zero.
    torch.manual_seed(0)
    network = MODELS["resenc_unet"].build(in_channels=1, out_channels=2, dims=2, patch=(32, 32))
    last = [m.norm for n, m in network.named_modules() if n.endswith("conv2")]
    assert len(last) == 1 + 3 + 4 + 6
    assert all(not norm.weight.any() and not norm.bias.any() for norm in last)


@pytest.mark.parametrize("patch", [(32, 48), (16, 16, 32)])
def test_mednext_is_monais(patch: tuple[int, ...]) -> None:
    from monai.networks.nets.mednext import create_mednext

    dims = len(patch)
    torch.manual_seed(0)
    theirs = create_mednext("S", dims, 2, 3, kernel_size=3, deep_supervision=True)
    torch.manual_seed(0)
    ours = MODELS["mednext_s"].build(in_channels=2, out_channels=3, dims=dims, patch=patch)
    image = torch.randn(2, 2, *patch)
    given, expected = ours(image), theirs(image)
    assert isinstance(given, Output)
    assert len(given.deep) == 3
    for mine, their in zip((given.logits, *given.deep), expected, strict=False):
        assert torch.equal(mine, their)
    assert len(expected) == 5  # the lowest level besides
    assert torch.equal(ours.eval()(image), theirs.eval()(image))


# ---------------------------------------------------------------- both at once


@pytest.mark.parametrize(
    "patch",
    [(16, 24), *(pytest.param(p, marks=pytest.mark.slow) for p in ((72, 80), (12, 24, 24)))],
)
def test_both_learns_to_segment_and_to_say_what_is_there(patch: tuple[int, ...]) -> None:
    dims = len(patch)
    torch.manual_seed(0)
    network = MODELS["unet_resnet_both"].build(
        in_channels=1, out_channels=2, dims=dims, patch=patch
    )
    mask = torch.zeros(4, *patch, dtype=torch.long)
    mask[:2, ..., 4:12, 4:12] = 1  # two of the four hold the class
    image = mask[:, None] + 0.3 * torch.randn(4, 1, *patch)
    holds = torch.tensor([[1.0, 1.0]] * 2 + [[1.0, 0.0]] * 2)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    for _ in range(40):
        optimizer.zero_grad()
        given = network(image)
        loss = F.cross_entropy(given.logits, mask)
        loss = loss + F.binary_cross_entropy_with_logits(given.presence, holds)
        loss.backward()
        optimizer.step()
        if loss.item() < 0.1:
            break
    assert loss.item() < 0.1
    assert ((given.presence > 0) == holds.bool()).all()


# ---------------------------------------------------------------- clips


def clip_network(name: str, encoder: str, patch: tuple[int, ...] = (6, 16, 16)) -> nn.Module:
    torch.manual_seed(0)
    row = MODELS[name]
    row = replace(row, settings={**row.settings, "encoder": encoder})
    return row.build(in_channels=1, out_channels=2, dims=3, patch=patch).eval()


def test_the_lstm_sees_the_order_of_frames_and_their_mean_does_not() -> None:
    clip = torch.randn(2, 1, 6, 16, 16)
    shuffled = clip[:, :, [3, 0, 5, 1, 4, 2]]
    with torch.no_grad():
        blind, seeing = (
            clip_network("frame_cnn", "plain_cnn"),
            clip_network("cnn_lstm", "plain_cnn"),
        )
        torch.testing.assert_close(blind(clip), blind(shuffled))
        assert (seeing(clip) - seeing(shuffled)).abs().max() > 1e-3


def test_frames_are_seen_one_by_one() -> None:
    network = clip_network("frame_cnn", "vgg_small")
    clip = torch.randn(2, 1, 6, 16, 16)
    with torch.no_grad():
        each = torch.stack([network(clip[:, :, t : t + 1]) for t in range(6)])
        torch.testing.assert_close(network(clip), each.mean(0))


@pytest.mark.parametrize("encoder", MODELS["cnn_lstm"].choices["encoder"])
def test_any_2d_classifier_looks_at_frames(encoder: str) -> None:
    row = MODELS["cnn_lstm"]
    row = replace(row, settings={**row.settings, "encoder": encoder})
    with torch.device("meta"):
        network = row.build(in_channels=1, out_channels=2, dims=3, patch=(4, 28, 28))
        assert network(torch.empty(2, 1, 4, 28, 28)).shape == (2, 2)
    stages = row.stages(network)
    assert stages[-2:] == ("lstm", "head")
    assert stages[0].startswith("encoder.network.")


def test_encoders_that_do_not_fit() -> None:
    row = MODELS["cnn_lstm"]
    with pytest.raises(ValueError, match="cnn_lstm has no encoder 'unet'; choices: plain_cnn"):
        replace(row, settings={**row.settings, "encoder": "unet"})
    inception = replace(row, settings={**row.settings, "encoder": "inception_v3"})
    assert inception.unfit(task="classification", dims=3, patch=(2, 16, 32)) == (
        "model cnn_lstm looks at single frames, and model inception_v3 takes patches whose sides "
        "are multiples of 1 and at least 21, not 16 x 32; 21 x 32 fits"
    )
    assert inception.unfit(task="classification", dims=3, patch=(2, 32, 32)) is None


@pytest.mark.slow
def test_the_lstm_learns_motion_that_single_frames_do_not_show() -> None:
    # A bar that runs to the right or to the left, from anywhere: each frame alone says nothing.
    generator = torch.Generator().manual_seed(0)

    def clips(n: int) -> tuple[Tensor, Tensor]:
        label = torch.arange(n) % 2
        start = torch.randint(16, (n,), generator=generator)
        at = (start[:, None] + torch.arange(6) * (2 * label[:, None] - 1) * 2) % 16
        clip = F.one_hot(at, 16).float()[:, None, :, None, :].expand(n, 1, 6, 16, 16)
        return clip + 0.1 * torch.randn(n, 1, 6, 16, 16, generator=generator), label

    (train, label), (test, truth) = clips(256), clips(256)
    areas = {}
    for name in ("cnn_lstm", "frame_cnn"):
        network = clip_network(name, "plain_cnn").train()
        optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)
        for _ in range(25):
            for batch in torch.randperm(256, generator=generator).split(32):
                optimizer.zero_grad()
                F.cross_entropy(network(train[batch]), label[batch]).backward()
                optimizer.step()
        with torch.no_grad():
            areas[name] = roc_auc_score(truth, network.eval()(test).softmax(1)[:, 1])
    assert areas["cnn_lstm"] > 0.9
    assert abs(areas["frame_cnn"] - 0.5) < 0.15
