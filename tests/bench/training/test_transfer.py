"""Weights to start from: what of them fits, which layers are frozen, and trials that use them."""

from pathlib import Path

import pytest
import torch
from torch import nn

from bench.core.references import StudyError
from bench.execution.local import run_here
from bench.execution.trial_queue import opened
from bench.planning.plan import resolve, save
from bench.planning.preflight import fits
from bench.study.choice import Choice
from bench.study.components import Combination
from bench.study.pretrained import DEFAULTS, InitialWeights, weights_digest
from bench.study.schema import parse_study
from bench.training.networks import build_model
from bench.training.train import run_trial
from bench.training.transfer import WRAPPERS, LayerGroups, load_weights, read_state
from models.table import MODELS
from tests.trials import changed

CPU = torch.device("cpu")


def network(
    name: str = "resnet18", channels: int = 3, classes: int = 2, seed: int = 0
) -> nn.Module:
    torch.manual_seed(seed)
    return MODELS[name].build(in_channels=channels, out_channels=classes, dims=2, patch=(96, 96))


def start(file: Path, **settings: object) -> InitialWeights:
    found = {**DEFAULTS, **settings}
    return InitialWeights(
        label="w",
        file=file,
        digest=weights_digest(file),
        freeze_until=str(found["freeze_until"]),
        unfreeze_every=int(str(found["unfreeze_every"])),
        lower_rate=float(str(found["lower_rate"])),
    )


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    file = tmp_path / "weights.pt"
    torch.save(network(seed=1).state_dict(), file)
    return file


# ---------------------------------------------------------------- what fits


def test_all_but_the_head_is_taken(saved: Path) -> None:
    net, own = network(classes=5), torch.load(saved, weights_only=True)
    head = net.fc.weight.clone()
    match = load_weights(net, MODELS["resnet18"], start(saved))
    assert set(match.left) == {"fc.weight", "fc.bias"}
    assert not match.adapted
    for name, value in net.state_dict().items():
        if not name.startswith("fc."):
            assert torch.equal(value, own[name]), name
    assert torch.equal(net.fc.weight, head)


@pytest.mark.parametrize("channels", [1, 4])
def test_a_grey_image_gives_what_it_gave_in_three_channels(saved: Path, channels: int) -> None:
    three, other = network(seed=1).eval(), network(channels=channels)
    match = load_weights(other, MODELS["resnet18"], start(saved))
    assert match.adapted == ("conv1.weight",)
    grey = torch.randn(2, 1, 96, 96, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(
        three.conv1(grey.expand(-1, 3, -1, -1)),
        other.conv1(grey.expand(-1, channels, -1, -1)),
        rtol=1e-4,
        atol=1e-5,
    )


def test_a_file_of_another_network_is_refused(tmp_path: Path, saved: Path) -> None:
    with pytest.raises(StudyError, match=r"weights\.pt does not fit model plain_cnn: 0 of"):
        load_weights(network("plain_cnn"), MODELS["plain_cnn"], start(saved))


def test_a_file_that_changed_after_it_was_planned_with_is_refused(saved: Path) -> None:
    planned = start(saved)
    torch.save(network(seed=2).state_dict(), saved)
    with pytest.raises(StudyError, match=r"weights\.pt is another file than when the study was pl"):
        load_weights(network(), MODELS["resnet18"], planned)
    assert start(saved).digest != planned.digest
    load_weights(network(), MODELS["resnet18"], start(saved))


def test_states_inside_checkpoints_and_wrappers_are_found(tmp_path: Path, saved: Path) -> None:
    state = torch.load(saved, weights_only=True)
    for key in WRAPPERS:
        file = tmp_path / f"{key}.pt"
        wrapped = {f"module.{name}": value for name, value in state.items()}
        torch.save({"epoch": 3, key: wrapped}, file)
        assert read_state(file).keys() == state.keys()


def test_names_that_torchvision_gave_up_are_found(tmp_path: Path) -> None:
    torch.manual_seed(1)
    net = MODELS["densenet121"].build(in_channels=3, out_channels=2, dims=2, patch=(64, 64))
    old = {
        name.replace("norm1.", "norm.1.").replace("conv2.", "conv.2."): value
        for name, value in net.state_dict().items()
    }
    assert old.keys() != net.state_dict().keys()
    torch.save(old, tmp_path / "old.pt")
    assert read_state(tmp_path / "old.pt").keys() == net.state_dict().keys()


class Malice:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return Path.touch, (Path("executed"),)  # type: ignore[return-value]  # pickle takes any callable


@pytest.mark.parametrize("content", ["pickle", "text", "empty", "numbers", "cut"])
def test_what_holds_no_weights_is_refused_and_nothing_runs(
    tmp_path: Path, saved: Path, content: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "bad.pt"
    if content == "pickle":
        torch.save({"state_dict": Malice()}, file)
    elif content == "numbers":
        torch.save({"epoch": 3}, file)
    else:
        whole = saved.read_bytes()
        file.write_bytes({"text": b"hello", "empty": b"", "cut": whole[: len(whole) // 2]}[content])
    with pytest.raises(StudyError, match=r"bad\.pt"):
        read_state(file)
    assert not (tmp_path / "executed").exists()


# ---------------------------------------------------------------- stages


def test_stages_before_the_named_one_are_frozen_and_thaw_from_above(saved: Path) -> None:
    net = network()
    layers = LayerGroups(
        net, MODELS["resnet18"], start(saved, freeze_until="layer4", unfreeze_every=2)
    )
    names = MODELS["resnet18"].stages(net)

    def trained() -> list[str]:
        return [s for s in names if all(p.requires_grad for p in net.get_submodule(s).parameters())]

    assert trained() == ["layer4", "fc"]
    layers.train()
    assert not net.bn1.training
    assert not net.layer3.training
    assert net.layer4.training
    assert not layers.thaw(1)
    assert layers.thaw(2)
    assert trained() == ["layer3", "layer4", "fc"]
    for epoch in range(3, 20):
        layers.thaw(epoch)
    assert trained() == list(names)
    assert not layers.thaw(20)
    layers.freeze(2)
    assert trained() == list(names[2:])


def test_only_the_head(saved: Path) -> None:
    net = network()
    LayerGroups(net, MODELS["resnet18"], start(saved, freeze_until="head"))
    assert [n for n, p in net.named_parameters() if p.requires_grad] == ["fc.weight", "fc.bias"]


def test_an_unknown_stage_is_told_with_the_choices(saved: Path) -> None:
    with pytest.raises(StudyError, match="stages of resnet18 are: conv1, bn1, layer1"):
        LayerGroups(network(), MODELS["resnet18"], start(saved, freeze_until="layer9"))


def test_lower_layers_get_lower_rates(saved: Path) -> None:
    net = network()
    layers = LayerGroups(net, MODELS["resnet18"], start(saved, lower_rate=0.5))
    groups = layers.groups(0.8)
    names = MODELS["resnet18"].stages(net)
    assert [g["lr"] for g in groups] == [0.8 * 0.5**k for k in range(len(names))][::-1]
    grouped = [id(p) for g in groups for p in g["params"]]
    assert sorted(grouped) == sorted(id(p) for p in net.parameters())


# ---------------------------------------------------------------- trials


@pytest.fixture
def start_of(make_trial, tmp_path):
    """Return a maker of (trial, data, base) that starts from the weights of the same network."""

    def make(**settings: object):
        trial, data, base = make_trial("classification", model=make_trial_model())
        torch.manual_seed(5)
        net = network_of(trial, data, base)
        file = tmp_path / "own.pt"
        torch.save(net.state_dict(), file)
        weights = start(file, **settings)
        trial = changed(
            trial, start=weights, pretrained=Choice(name=weights.label), keep_weights=True
        )
        return trial, data, base

    return make


def network_of(trial, data, base):
    model = Combination(choices=trial.choices, base=base).model
    return build_model(model, data.store.path, trial.patch)


def make_trial_model():
    return Choice(name="vgg_small")


def kept(outcome) -> dict[str, torch.Tensor]:
    import io

    return torch.load(io.BytesIO(outcome.weights), weights_only=True)


def test_what_is_frozen_stays_as_it_came_to_the_bit(start_of):
    trial, data, base = start_of(freeze_until="head")
    outcome = run_trial(trial, data, base, device=CPU)
    before, after = torch.load(trial.start.file, weights_only=True), kept(outcome)
    net = network_of(trial, data, base)
    head = MODELS["vgg_small"].stages(net)[-1]
    changed = {n for n in after if not torch.equal(before[n], after[n])}
    assert changed == {f"{head}.weight", f"{head}.bias"}


def test_gradual_unfreezing_and_lower_rates_train(start_of):
    trial, data, base = start_of(freeze_until="head", unfreeze_every=1, lower_rate=0.5)
    outcome = run_trial(trial, data, base, device=CPU)
    before, after = torch.load(trial.start.file, weights_only=True), kept(outcome)
    assert outcome.trial["status"] == "ok"
    assert outcome.trial["pretrained"] == "w"
    assert sum(not torch.equal(before[n], after[n]) for n in after) > 2


STUDY = """
name: {name}
data: [{store}]
models: [plain_cnn]
optimizers: [adam]
losses: [ce]
folds: 2
epochs: 1
batch_size: 8
loader: torch
threads: 1
device: cpu
{more}
"""


@pytest.fixture
def study(small_store, tmp_path):
    def make(name: str, more: str = "", side: int = 16):
        store = small_store("classification", 2, side)
        text = STUDY.format(name=name, store=store.path, more=more)
        return resolve(parse_study(text, name), tmp_path, tmp_path / "runs" / name)

    return make


def run(plan) -> None:
    save(plan)
    with opened(plan, shared_device=False) as queue:
        run_here(plan, queue, lambda _state: None)


def test_a_run_gives_the_weights_of_a_trial_that_has_not_seen_the_test_patients(study):
    first = study("first", "keep_weights: true")
    run(first)
    second = study("second", "pretrained: [none, runs/first, {runs/first: {freeze_until: head}}]")
    assert [t.start and t.start.label for t in second.trials[:3]] == [
        None,
        "first",
        "first(freeze_until=head)",
    ]
    # Same data and folds: each fold starts from its own trial of the first run, and no other.
    of_fold = {t.fold: t.trial_id for t in first.trials}
    for trial in second.trials:
        if trial.start:
            assert trial.start.file.stem == of_fold[trial.fold]
    assert len({t.trial_id for t in second.trials}) == len(second.trials)
    said = list(fits(second))
    assert len(said) == 2
    assert said[0].startswith("plain_cnn starts from first: ")
    assert "2 new" in said[0]
    run(second)


def test_a_run_that_trained_on_the_test_patients_is_refused(study):
    run(study("first", "keep_weights: true"))
    with pytest.raises(StudyError, match="has trained on patients that this study tests on"):
        study("second", "pretrained: runs/first\nsplit_seed: 7")


def test_a_run_that_kept_no_weights_is_refused_with_what_to_do(study):
    run(study("first"))
    with pytest.raises(StudyError, match="keep_weights: true"):
        study("second", "pretrained: runs/first")
