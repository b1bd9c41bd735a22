"""Weights to start from: what of them fits, which layers are frozen, and trials that use them."""

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
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
from loaders.cases import Case, Item, Kind, Meta, Survey
from loaders.store.pseudonyms import key_fingerprint, keyed_id
from loaders.store.read import Store
from loaders.store.write import write_store
from models.table import MODELS
from tests.metas import made_meta
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
    with pytest.raises(StudyError, match=r"weights\.pt does not fit model plain_cnn: it has 0 of"):
        load_weights(network("plain_cnn"), MODELS["plain_cnn"], start(saved))


def test_a_file_that_changed_after_it_was_planned_with_is_refused(saved: Path) -> None:
    planned = start(saved)
    torch.save(network(seed=2).state_dict(), saved)
    with pytest.raises(StudyError, match=r"weights\.pt has changed since the study was pl"):
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


def test_what_came_due_within_one_long_step_thaws_after_it(saved: Path) -> None:
    net = network()
    row = MODELS["resnet18"]
    layers = LayerGroups(net, row, start(saved, freeze_until="layer4", unfreeze_every=2))
    names = row.stages(net)
    assert layers.thaw(5)  # no multiple of 2: 2 and 4 lie behind it
    assert layers.frozen == names.index("layer4") - 2
    assert not layers.thaw(5)
    assert layers.thaw(100)
    assert layers.frozen == 0


def test_only_the_head(saved: Path) -> None:
    net = network()
    LayerGroups(net, MODELS["resnet18"], start(saved, freeze_until="head"))
    assert [n for n, p in net.named_parameters() if p.requires_grad] == ["fc.weight", "fc.bias"]


def test_a_stage_may_be_a_parameter(tmp_path: Path) -> None:
    net, row = network("vit_s16"), MODELS["vit_s16"]
    file = tmp_path / "weights.pt"
    torch.save(net.state_dict(), file)
    above = "encoder.layers.encoder_layer_2"
    layers = LayerGroups(net, row, start(file, freeze_until=above, lower_rate=0.5))
    layers.train()
    frozen = {name for name, p in net.named_parameters() if not p.requires_grad}
    below = ("conv_proj.", "encoder.layers.encoder_layer_0.", "encoder.layers.encoder_layer_1.")
    assert {name for name in frozen if not name.startswith(below)} == {
        "class_token",
        "encoder.pos_embedding",
    }
    assert not net.get_submodule("encoder.layers.encoder_layer_1").training
    assert net.get_submodule(above).training
    # Each stage has its rate, tokens and positions among them: 17 of them, the head last.
    rates = [group["lr"] for group in layers.groups(1.0)]
    assert rates == [0.5**place for place in range(16, -1, -1)]


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


def test_a_run_whose_folds_are_broken_is_refused(study, tmp_path):
    run(study("first", "keep_weights: true"))
    (tmp_path / "runs" / "first" / "folds.parquet").write_bytes(b"no folds")
    with pytest.raises(StudyError, match=r"^pretrained: folds\.parquet of run 'first' is damaged"):
        study("second", "pretrained: runs/first")


# ---------------------------------------------------------------- whose patients they are


def read_people(item: Item, meta: Meta) -> Iterator[Case]:
    """Give two pictures a patient, of noise that `seed` decides, brighter in half of them."""
    rng = np.random.default_rng(item.extra["seed"])
    for n in range(32):
        patient = f"{item.extra['prefix']}{n // 2}"
        image = rng.integers(0, 150, (1, 16, 16)) + 90 * (n // 2 % 2)
        yield Case(
            key=f"{patient}/{n % 2}",
            group=patient,
            image=image.astype(np.uint8),
            label=n // 2 % 2,
            mask=None,
            spacing=(1.0, 1.0),
        )


@pytest.fixture
def people_study(tmp_path):
    """Return a maker of plans, each on a store of its own: key, kind, names and images differ."""

    def make(
        name: str,
        more: str = "keep_weights: true",
        *,
        key: bytes = b"ours",
        kind: str = "first kind",
        prefix: str = "patient ",
        seed: int = 0,
    ):
        meta = made_meta(
            kind=kind,
            name="people",
            positive=1,
            group_source="patient",
        )
        row = Kind(
            name=kind, summary="", source="", survey=unsurveyed, read=read_people, options={}
        )
        item = Item(key="all", paths=(), extra={"prefix": prefix, "seed": seed})
        survey = Survey(meta=meta, items=(item,), rejected=())
        out = tmp_path / f"store of {name}"
        write_store(row, survey, out, key=key, workers=1, strict=True)
        text = STUDY.format(name=name, store=f'"{out}"', more=more)
        return resolve(parse_study(text, name), tmp_path, tmp_path / "runs" / name)

    return make


def unsurveyed(_source: Path, _options: Mapping[str, object]) -> Survey:
    raise NotImplementedError


FROM_FIRST = "pretrained: runs/first"
TOLD = "pretrained: {runs/first: {patients: others}}"
SPLIT = "\nsplit_seed: 7"


@pytest.mark.parametrize(
    ("other", "said"),
    [
        ({"key": b"a colleague's"}, "ids that were made with another key than those of this"),
        ({"kind": "another"}, "ids of another kind of source (first kind, here another)"),
    ],
)
def test_patients_whose_ids_cannot_be_compared_are_asked_for(people_study, other, said):
    """The same names by another key, or in another kind of source, have other ids in each case."""
    run(people_study("first"))
    with pytest.raises(StudyError) as refused:
        people_study("second", FROM_FIRST + SPLIT, seed=1, **other)
    assert said in str(refused.value)
    assert "tests on. If it has not, say so: `patients: others`" in str(refused.value)
    told = people_study("third", TOLD + SPLIT, seed=1, **other)
    assert {trial.start.label for trial in told.trials} == {"first(patients=others)"}


def test_a_run_of_an_older_version_does_not_say_whose_ids_it_has(people_study, tmp_path):
    run(people_study("first"))
    folds = tmp_path / "runs" / "first" / "folds.parquet"
    new = ["source_group_id", "image_id", "kind", "key"]
    pq.write_table(pq.read_table(folds).drop_columns(new), folds)
    with pytest.raises(StudyError, match="does not say which key made its ids"):
        people_study("second", FROM_FIRST)
    assert len(people_study("third", TOLD).trials) == 2


def test_the_same_names_are_the_same_patients_unless_the_user_knows_better(people_study):
    run(people_study("first"))
    with pytest.raises(StudyError, match="if these are other patients of the same names"):
        people_study("second", FROM_FIRST + SPLIT, seed=1)
    assert len(people_study("third", TOLD + SPLIT, seed=1).trials) == 2
    # Other names, other images, one key: known to be others.
    assert len(people_study("fourth", FROM_FIRST + SPLIT, seed=1, prefix="p").trials) == 2


@pytest.mark.parametrize("other", [{"prefix": "person "}, {"kind": "another"}])
def test_the_same_images_are_the_same_patients_whatever_anyone_says(people_study, other):
    run(people_study("first"))
    for more in (FROM_FIRST, TOLD):
        with pytest.raises(StudyError, match=r"study tests on \(even on the same images\)"):
            people_study(f"second-{len(more)}", more + SPLIT, **other)


@pytest.mark.slow
def test_weights_that_came_from_weights_are_asked_for(people_study):
    """What the first run saw is not in the folds of the second."""
    run(people_study("first"))
    run(people_study("second", FROM_FIRST + "\nkeep_weights: true", seed=1, prefix="b"))
    chain = "pretrained: runs/second"
    with pytest.raises(StudyError, match=r"started from weights itself \(first\), so whether"):
        people_study("third", chain)
    told = people_study("fourth", "pretrained: {runs/second: {patients: others}}")
    assert len(told.trials) == 2


def test_a_file_of_weights_of_a_run_is_looked_up_there(people_study, tmp_path):
    """One trial has not seen the test patients of its own fold, and those of all others."""
    first = people_study("first")
    run(first)
    file = f"runs/first/weights/{first.trials[0].trial_id}.pt"
    with pytest.raises(StudyError, match=r"the trial of \w+\.pt in run 'first' has trained on pat"):
        people_study("second", f"pretrained: {file}")
    assert len(people_study("third", f"pretrained: {file}", seed=1, prefix="b").trials) == 2
    (tmp_path / "mine.pt").write_bytes((tmp_path / file).read_bytes())
    assert len(people_study("fourth", "pretrained: mine.pt").trials) == 2


def test_a_run_says_whose_cases_it_has_by_ids_alone(people_study, tmp_path):
    plan = people_study("first")
    save(plan)
    table = pq.read_table(tmp_path / "runs" / "first" / "folds.parquet")
    store = plan.sets[0].store
    row = table.to_pylist()[0]
    at = store.case_ids.index(row["case_id"])
    wanted = {
        "group_id": keyed_id(b"ours", "first kind", f"patient {(n := whose(store, at))}"),
        "source_group_id": keyed_id(b"ours", "first kind", f"patient {n}"),
        "image_id": store.image_ids[at],
        "kind": "first kind",
        "key": key_fingerprint(b"ours"),
    }
    assert {name: row[name] for name in wanted} == wanted
    assert b"ours" not in (tmp_path / "runs" / "first" / "folds.parquet").read_bytes()


def whose(store: Store, at: int) -> int:
    ids = [keyed_id(b"ours", "first kind", f"patient {n}") for n in range(16)]
    return ids.index(store.source_groups[at])
