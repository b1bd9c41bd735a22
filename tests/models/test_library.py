"""Networks of timm and torchvision by name: the libraries' own, for any channels and sizes."""

import socket
from pathlib import Path

import pytest
import timm
import torch
import torchvision
from torch import nn
from torch.nn import functional as F

from bench.core.references import StudyError
from bench.study.axes import STUDY_AXES
from bench.study.choice import Choice
from bench.study.components import model_row
from bench.study.pretrained import People, WeightsNeeded, find
from bench.training.train import run_trial
from bench.training.transfer import LayerGroups, load_weights
from models.classification.library import LIBRARIES, by_name
from results.tables.axes import LIBRARIES as LABELLED

HERE = Path(__file__).parent
# timm's smallest of each kind (it tests itself by them), and torchvision's.
SMALL = ("timm:test_resnet", "timm:test_vit", "timm:test_convnext", "timm:test_efficientnet")
SMALL_TOO = ("torchvision:shufflenet_v2_x0_5", "torchvision:squeezenet1_1")


def built(name: str, patch: tuple[int, ...], *, channels: int = 3, **settings: object) -> nn.Module:
    row = model_row(name, settings, HERE).row
    torch.manual_seed(0)
    return row.build(in_channels=channels, out_channels=5, dims=2, patch=patch)


def theirs(name: str, **arguments: object) -> nn.Module:
    package, _, own = name.partition(":")
    torch.manual_seed(0)
    if package == "timm":
        return timm.create_model(own, pretrained=False, num_classes=5, **arguments)
    return torchvision.models.get_model(own, weights=None, num_classes=5, **arguments)


# ---------------------------------------------------------------- the libraries' own


@pytest.mark.parametrize("name", [*SMALL, *SMALL_TOO])
def test_it_is_the_librarys_network(name: str) -> None:
    side = {"timm:test_vit": 160}.get(name, 96)  # this one is built for 160
    ours, published = built(name, (side, side)), theirs(name)
    state = published.state_dict()
    assert {n: v.shape for n, v in ours.state_dict().items()} == {
        n: v.shape for n, v in state.items()
    }
    ours.load_state_dict(state)
    image = torch.randn(2, 3, side, side)
    with torch.no_grad():
        given, expected = ours.eval()(image), published.eval()(image)
    torch.testing.assert_close(given, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    "name", ["resnet101", "swin_t", "maxvit_t", "regnet_x_400mf", "vit_b_32", "googlenet"]
)
def test_parameters_as_torchvision_publishes_them(name: str) -> None:
    row = by_name(f"torchvision:{name}", {})
    with torch.device("cpu" if "regnet" in name else "meta"):  # see models.classification.library
        network = row.build(in_channels=3, out_channels=1000, dims=2, patch=(224, 224))
    published = torchvision.models.get_model_weights(name).DEFAULT.meta["num_params"]
    assert sum(p.numel() for p in network.parameters()) == pytest.approx(published, rel=0.01)


@pytest.mark.parametrize(
    ("name", "millions"),
    [  # timm's published results, results-imagenet.csv, column param_count
        ("resnet50", 25.56),
        ("vit_base_patch16_224", 86.57),
        ("swin_tiny_patch4_window7_224", 28.29),
        ("convnextv2_tiny", 28.64),
        ("efficientnetv2_rw_s", 23.94),
        ("deit_tiny_distilled_patch16_224", 5.91),
    ],
)
def test_parameters_as_timm_publishes_them(name: str, millions: float) -> None:
    row = by_name(f"timm:{name}", {})
    with torch.device("meta"):
        network = row.build(in_channels=3, out_channels=1000, dims=2, patch=(224, 224))
    assert sum(p.numel() for p in network.parameters()) == pytest.approx(1e6 * millions, rel=0.01)


# ---------------------------------------------------------------- images of any kind


def test_small_images_are_enlarged() -> None:
    ours, published = built("timm:test_resnet", (28, 20)), theirs("timm:test_resnet")
    ours.load_state_dict(published.state_dict())
    image = torch.randn(2, 3, 28, 20)
    enlarged = F.interpolate(image, (112, 80), mode="bilinear", antialias=True)
    with torch.no_grad():
        assert torch.equal(ours.eval()(image), published.eval()(enlarged))


def test_a_network_of_one_size_gets_a_square_of_it() -> None:
    ours, published = built("timm:test_vit", (100, 40)), theirs("timm:test_vit")
    ours.load_state_dict(published.state_dict())
    image = torch.randn(2, 3, 100, 40)
    square = torch.zeros(2, 3, 100, 100)
    square[..., :40] = image
    resized = F.interpolate(square, (160, 160), mode="bilinear", antialias=True)
    with torch.no_grad():
        torch.testing.assert_close(
            ours.eval()(image), published.eval()(resized), atol=1e-5, rtol=1e-5
        )


MANY = [
    *SMALL,
    *SMALL_TOO,
    *(
        pytest.param(name, marks=pytest.mark.slow)
        for name in (
            "timm:swin_tiny_patch4_window7_224",
            "timm:swinv2_tiny_window8_256",
            "timm:maxvit_pico_rw_256",
            "timm:deit_tiny_distilled_patch16_224",
            "timm:levit_128",
            "timm:efficientformer_l1",
            "timm:regnetv_040",
            "timm:densenet121",
            "timm:coat_tiny",
            "timm:mixer_s16_224",
            "timm:vit_small_patch14_dinov2",
            "torchvision:maxvit_t",
            "torchvision:swin_t",
            "torchvision:vit_b_32",
            "torchvision:googlenet",
            "torchvision:regnet_x_400mf",
            "torchvision:mnasnet0_5",
        )
    ),
]


@pytest.mark.parametrize("name", MANY)
def test_any_channels_and_sizes_and_every_parameter_in_a_stage(name: str) -> None:
    row = by_name(name, {})
    for channels, patch in ((1, (28, 28)), (4, (100, 72))):
        network = built(name, patch, channels=channels)
        image = torch.randn(2, channels, *patch)
        logits = network(image)
        assert logits.shape == (2, 5)
        logits.square().mean().backward()
        network.eval()
        assert network(image[:1]).shape == (1, 5)
        parameters = dict(network.named_parameters())
        assert all(p.grad is not None for p in parameters.values())
        assert parameters[str(row.first)].shape[1] == channels
        stages = row.stages(network)
        of = {n: [s for s in stages if n == s or n.startswith(f"{s}.")] for n in parameters}
        assert all(len(found) == 1 for found in of.values())
    # What depends on the number of classes stands in the last stage, but for the second head of
    # networks that were distilled.
    wider = row.build(in_channels=4, out_channels=9, dims=2, patch=(100, 72))
    changed = {n for n, p in wider.named_parameters() if p.shape != parameters[n].shape}
    assert changed
    assert {of[n][0] for n in changed} - {"head_dist"} == {stages[-1]}


def test_volumes_are_refused_in_a_sentence() -> None:
    row = by_name("timm:test_vit", {})
    assert row.unfit(task="classification", dims=3, patch=(16, 16, 16)) == (
        "model timm:test_vit takes 2-D images, not 3-D ones"
    )
    assert row.unfit(task="segmentation", dims=2, patch=(32, 32)) == (
        "model timm:test_vit is for classification, not for segmentation"
    )


# ---------------------------------------------------------------- names and settings


@pytest.mark.parametrize(
    ("name", "given", "message"),
    [
        ("timm:resnet81", {}, "timm has no classifier 'resnet81'. Did you mean .*resnet18"),
        ("torchvision:swin", {}, "torchvision has no classifier 'swin'. Did you mean swin_"),
        ("timm:resnet18.a1_in1k", {}, "without a tag of weights"),
        ("timm:hf-hub:someone/network", {}, "an address of a hub: nothing is fetched"),
        ("torchvision:unet", {}, "It has [0-9]+. Give the name"),
        ("timm:test_vit", {"depht": 2}, "timm:test_vit has no setting 'depht'"),
        ("timm:test_vit", {"img_size": 64}, "no setting 'img_size'; its settings are dropout"),
        ("timm:test_vit", {"dropout": 1.5}, r"dropout must be from 0 to below 1, not 1\.5"),
        ("torchvision:shufflenet_v2_x0_5", {"dropout": 0.1}, "it has none"),
    ],
)
def test_what_cannot_be_named(name: str, given: dict[str, object], message: str) -> None:
    with pytest.raises(StudyError, match=message):
        model_row(name, given, HERE)


def test_settings_of_the_class_by_name() -> None:
    whole, flat = built("timm:test_vit", (160, 160)), built("timm:test_vit", (160, 160), depth=2)
    assert len(whole.get_submodule("blocks")) == 6  # type: ignore[arg-type]  # a Sequential
    assert len(flat.get_submodule("blocks")) == 2  # type: ignore[arg-type]  # as above
    row = model_row("timm:test_vit", {"depth": 2, "dropout": 0.25}, HERE).row
    assert row.settings == {"dropout": 0.25, "depth": 2}


@pytest.mark.parametrize(
    ("name", "published"),
    [
        ("timm:test_resnet", 0.0),
        ("torchvision:alexnet", 0.5),
        ("torchvision:efficientnet_b2", 0.3),  # its class wants it said
    ],
)
def test_dropout_is_as_published_and_can_be_set(name: str, published: float) -> None:
    assert by_name(name, {}).settings == {"dropout": published}
    torch.manual_seed(0)
    network = built(name, (64, 64), dropout=0.75)
    rates = {m.p for m in network.modules() if isinstance(m, nn.Dropout)}
    assert getattr(network, "drop_rate", None) == 0.75 or rates == {0.75}


def test_results_call_it_by_its_library() -> None:
    # resnet18 is a row of ours, and another network.
    assert Choice(name="timm:resnet18").label == "timm:resnet18"
    assert Choice(name="torchvision:swin_t", params={"dropout": 0.1}).label == (
        "torchvision:swin_t(dropout=0.1)"
    )
    assert Choice(name="pytorch_optimizer:Lion").label == "Lion"
    assert {f"{name}:" for name in LIBRARIES} == set(LABELLED)
    STUDY_AXES["models"].check(Choice(name="timm:resnet18"))
    part = model_row("timm:test_vit", {}, HERE)
    assert part.identity == f"timm:test_vit timm {timm.__version__}"


def test_nothing_is_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_call: object) -> None:
        raise AssertionError("a network was asked")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    for name in (*SMALL, *SMALL_TOO):
        built(name, (28, 28), channels=1)


# ---------------------------------------------------------------- in a study


@pytest.mark.parametrize("name", ["timm:test_vit", "torchvision:squeezenet1_1"])
def test_it_trains_as_any_other(make_trial, name: str) -> None:
    trial, data, base = make_trial("classification", model=Choice(name=name), epochs=1)
    outcome = run_trial(trial, data, base, device=torch.device("cpu"))
    assert outcome.trial["status"] == "ok"
    assert outcome.trial["model"] == name


def test_weights_come_from_a_file_alone(tmp_path: Path) -> None:
    row = by_name("timm:test_vit", {})
    nobody = People(ids=frozenset(), images=frozenset(), kind=None, key=None)
    needed = WeightsNeeded(row=row, model=row.name, dims=2, test=nobody)
    with pytest.raises(LookupError, match=r"no ImageNet weights.*timm:test_vit.*file of weights"):
        find("imagenet", {}, "imagenet", tmp_path, needed)
    file = tmp_path / "weights.pt"
    torch.save(timm.create_model("test_vit", num_classes=1000).state_dict(), file)
    start = find("weights.pt", {"freeze_until": "blocks.3"}, "w", tmp_path, needed)
    network = built("timm:test_vit", (28, 28), channels=1)
    match = load_weights(network, row, start)
    assert match.adapted == ("patch_embed.proj.weight",)
    assert set(match.left) == {"head.weight", "head.bias"}
    layers = LayerGroups(network, row, start)
    layers.train()
    trained = {n.split(".")[0] for n, p in network.named_parameters() if p.requires_grad}
    assert trained == {"blocks", "norm", "head"}
