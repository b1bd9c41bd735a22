"""A trial that stops after every epoch and goes on from bytes ends as one that never stopped."""

import io
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from bench.core.processes import World
from bench.core.timing import Clock
from bench.losses.mixup import Mixing
from bench.optimizers.averaging import evaluation_weights
from bench.optimizers.steps import RESTARTS, StepParts
from bench.optimizers.table import OPTIMIZERS
from bench.planning.plan import resolve
from bench.study.choice import Choice
from bench.study.components import Combination
from bench.study.pretrained import InitialWeights, weights_digest
from bench.study.schema import parse_study
from bench.training import state as module
from bench.training import train
from bench.training.networks import build_model
from bench.training.state import TrainingState
from bench.training.train import SOLO, run_trial
from bench.training.transfer import LayerGroups
from loaders.batches.table import LOADERS
from models.table import MODELS
from tests.golden import made

CPU = torch.device("cpu")
# Batch norms and dropout: running statistics and random draws have to go on too.
MODEL = Choice(name="vgg_small", params={"dropout": 0.3})
# So few evaluations a step that a search has several steps, and Shampoo and Sophia several
# preconditioners and Hessians, on both sides of a stop.
OPTIONS = {
    "lbfgs": {"max_iter": 2, "history_size": 4},
    "shampoo": {"precondition_frequency": 4},
    "sophia": {"update_period": 4},
    "soap": {"precondition_frequency": 3},
}
EPOCHS = {"lbfgs": 24, "sam": 5, "sophia": 5}
# One row for each kind of step, and one that averages its weights.
KINDS = ["adam", "lbfgs", "sam", "sophia", "schedule_free_adamw"]
# In the names of columns that are times, or say what a process needed.
TIMES = ("sec", "_ms", "_at", "peak_memory", "joules")


class StoppedHere(Exception):  # noqa: N818  # is no error
    """Stands for the end of a process."""


def asked(name: str) -> dict[str, object]:
    """Return the fields of a trial of an optimizer."""
    optimizer = Choice(name=name, params=OPTIONS.get(name, {}))
    return {"optimizer": optimizer, "epochs": EPOCHS.get(name, 3)}


def whole(trial, data, base, device=CPU, world=SOLO):
    """Train without a stop; return the outcome and the state after each epoch."""
    states = []
    outcome = run_trial(
        trial,
        data,
        base,
        device=device,
        world=world,
        checkpoint=lambda state: states.append(state.to_bytes()),
    )
    return outcome, states


def in_parts(trial, data, base, device=CPU, world=SOLO):
    """Stop after every epoch, and go on from bytes by a call that knows nothing else."""
    states: list[bytes] = []

    def stop(state: TrainingState) -> None:
        states.append(state.to_bytes())
        raise StoppedHere

    while True:
        torch.manual_seed(len(states))  # another process is in another random state
        try:
            resume = states[-1] if states else None
            outcome = run_trial(
                trial, data, base, device=device, world=world, resume=resume, checkpoint=stop
            )
        except StoppedHere:
            continue
        return outcome, states


def timeless(rows):
    """Return rows without times of day, durations and memory."""
    return [{k: v for k, v in row.items() if not any(time in k for time in TIMES)} for row in rows]


def bits(value):
    """Return a value with its tensors as dtype, shape and bytes, to be compared by `==`."""
    if isinstance(value, torch.Tensor):
        flat = value.detach().cpu().contiguous().flatten()
        return str(value.dtype), tuple(value.shape), flat.view(torch.uint8).numpy().tobytes()
    if isinstance(value, dict):
        return {k: bits(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [bits(v) for v in value]
    return value


def content(packed: bytes):
    """Return what bytes hold, without times."""
    found = torch.load(io.BytesIO(packed), weights_only=True)
    for name in ("clock", "started_at", "peak_memory"):
        del found[name]
    found["epochs"] = timeless(found["epochs"])
    if found["reached"]:
        (found["reached"],) = timeless([found["reached"]])
    return bits(found)


def same(trial, data, base, device=CPU, world=SOLO):
    """Assert that both ways go alike and end alike, to the bit; return the outcome."""
    expected, kept = whole(trial, data, base, device, world)
    found, states = in_parts(trial, data, base, device, world)
    assert len(states) == len(kept) == len(expected.epochs) > 1
    for one, other in zip(kept, states, strict=True):
        assert content(one) == content(other)
    weights = [torch.load(io.BytesIO(o.weights), weights_only=True) for o in (expected, found)]
    assert bits(weights[0]) == bits(weights[1])
    assert found.metrics == expected.metrics
    assert found.cases == expected.cases
    assert timeless(found.epochs) == timeless(expected.epochs)
    assert timeless([found.trial]) == timeless([expected.trial])
    return found


def case(make_trial, name="adam", task="classification", **changes):
    """Return (trial, data, base) of an optimizer; keywords replace fields of the trial."""
    model = {"model": MODEL} if task == "classification" else {}
    fields = {**asked(name), **model, "keep_weights": True, **changes}
    return make_trial(task, **fields)


@pytest.mark.parametrize("name", KINDS)
def test_each_kind_of_step_goes_on(make_trial, name):
    outcome = same(*case(make_trial, name))
    assert outcome.trial["status"] == "ok"


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(set(OPTIMIZERS) - set(KINDS)))
def test_every_optimizer_goes_on(make_trial, name):
    outcome = same(*case(make_trial, name))
    assert outcome.trial["status"] == "ok"


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(OPTIMIZERS))
def test_every_optimizer_goes_on_with_masks(make_trial, name):
    same(*case(make_trial, name, task="segmentation"))


def test_scaled_gradients_go_on(make_trial, monkeypatch):
    # A scale that overflows at first and grows soon: it has a history to go on from.
    scaler = torch.amp.GradScaler
    monkeypatch.setattr(
        torch.amp,
        "GradScaler",
        lambda *args, **kw: scaler(*args, init_scale=2.0**40, growth_interval=4, **kw),
    )
    trial, data, base = case(make_trial, precision="float16", channels_last=True)
    same(trial, data, base)
    scales = [
        torch.load(io.BytesIO(packed), weights_only=True)["scaler"]["scale"]
        for packed in whole(trial, data, base)[1]
    ]
    assert scales[0] < 2.0**40
    assert len(set(scales)) > 1


def test_frozen_layers_thaw_as_they_would_have(make_trial, tmp_path):
    trial, data, base = case(make_trial, epochs=4)
    torch.manual_seed(5)
    model = Combination(choices=trial.choices, base=base).model
    net = build_model(model, data.store.path, trial.patch)
    torch.save(net.state_dict(), tmp_path / "own.pt")
    start = InitialWeights(
        label="own",
        file=tmp_path / "own.pt",
        digest=weights_digest(tmp_path / "own.pt"),
        freeze_until="head",
        unfreeze_every=2,
        lower_rate=0.5,
    )
    same(replace(trial, start=start), data, base)
    frozen = [
        torch.load(io.BytesIO(packed), weights_only=True)["frozen"]
        for packed in in_parts(replace(trial, start=start), data, base)[1]
    ]
    assert frozen[0] == frozen[1] + 1 == frozen[2] + 1 == frozen[3] + 2


def test_mixup_goes_on_with_the_shares_it_would_have_had(make_trial, monkeypatch):
    own, numbers = Mixing.apply, []

    def noted(mixing, image, target, batch, derived=None):
        numbers.append(batch)
        return own(mixing, image, target, batch, derived)

    monkeypatch.setattr(Mixing, "apply", noted)
    trial, data, base = case(make_trial, mixup=0.4)
    same(trial, data, base)
    each = len(numbers) // 2
    assert numbers == [*range(each), *range(each)]


def test_a_schedule_goes_on_along_its_curve(make_trial):
    outcome = same(*case(make_trial, schedule=Choice(name="warmup_cosine")))
    rates = [e["lr"] for e in outcome.epochs]
    assert len(set(rates)) == len(rates)


def test_a_loss_goes_on_at_the_weight_of_its_epoch(make_trial):
    loss = Choice(name="boundary", params={"rise": 0.3, "rebalance": True})
    moved = same(*case(make_trial, task="segmentation", loss=loss))
    still = run_trial(
        *case(make_trial, task="segmentation", loss=Choice(name="boundary")), device=CPU
    )
    assert moved.epochs[-1]["train_loss"] != still.epochs[-1]["train_loss"]


def test_patience_counts_on_and_a_target_stays_reached(make_trial):
    still = Choice(name="sgd", params={"lr": 1e-12})
    # Without batch norms nothing moves.
    changes = {"optimizer": still, "model": Choice(name="plain_cnn")}
    outcome = same(*case(make_trial, **changes, epochs=9, patience=3, target=0.0))
    assert outcome.trial["epochs_run"] == 4
    assert outcome.trial["best_epoch"] == 1
    assert outcome.trial["sample_gradients_to_target"] == outcome.epochs[0]["sample_gradients"]
    assert outcome.trial["sec_to_target"] == outcome.epochs[0]["elapsed_sec"]


def test_the_lowest_loss_stays_the_best(make_trial):
    same(*case(make_trial, stop_on="loss", epochs=5))


@pytest.mark.parametrize("loader", [n for n, row in LOADERS.items() if row.available()])
def test_every_loader_goes_on(make_trial, loader):
    same(*case(make_trial, loader=loader, balance=True))


def test_a_trial_that_diverged_stays_so(make_trial):
    huge = Choice(name="sgd", params={"lr": 1e20})
    trial, data, base = case(make_trial, optimizer=huge)
    expected, (packed,) = whole(trial, data, base)
    found = run_trial(trial, data, base, device=CPU, resume=packed)
    assert found.trial["status"] == "diverged"
    assert found.trial["reason"] == expected.trial["reason"]
    assert timeless(found.epochs) == timeless(expected.epochs)


@pytest.mark.slow
def test_a_compiled_network_goes_on(make_trial):
    same(*case(make_trial, task="segmentation", compiled=True))


@pytest.mark.gpu
@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_a_gpu_goes_on(make_trial, name, precision):
    if precision == "float16" and not OPTIMIZERS[name].scalable:
        pytest.skip(f"{name} does not train in float16")
    same(*case(make_trial, name, precision=precision), device=torch.device("cuda"))


@pytest.mark.parametrize("name", ["adam", "schedule_free_adamw"])
def test_a_checkpoint_changes_nothing_and_makes_no_bytes_unless_asked(
    make_trial, name, monkeypatch
):
    trial, data, base = case(make_trial, name)
    expected, _ = whole(trial, data, base)
    monkeypatch.setattr(TrainingState, "to_bytes", lambda _self: pytest.fail("nobody asked"))
    seen = []
    for checkpoint in (None, lambda state: seen.append(state.spent)):
        outcome = run_trial(trial, data, base, device=CPU, checkpoint=checkpoint)
        assert outcome.metrics == expected.metrics
        assert timeless(outcome.epochs) == timeless(expected.epochs)
    assert seen == [e["sample_gradients"] for e in expected.epochs]


# ---- two processes (started by gloo.py) ------------------------------------------------------

SHARES = ((2, 2),)
# The network has dropout and no batch norms, which several processes share on GPUs alone.
STUDY = """
name: two
data: [{store}]
models: [{{plain_cnn: {{dropout: 0.3}}}}]
optimizers: [adam, {{lbfgs: {{max_iter: 2}}}}, sam, schedule_free_adamw]
losses: [ce]
regularizers: [none, mixup]
folds: 2
epochs: 6
batch_size: 4
loader: torch
threads: 1
device: cpu
keep_weights: true
"""


def work(rank, shares):
    """Be one process: hold every trial to itself; return their names and random states."""
    found = {}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        text = STUDY.format(store=made.make_store("images", folder))
        plan = resolve(parse_study(text, "two"), folder, folder / "runs")
        for trial in plan.trials:
            if trial.fold == 0:
                given = trial, plan.data("images"), folder
                world = World(rank=rank, size=len(shares))
                same(*given, world=world)
                packed = whole(*given, world=world)[1][0]
                random = torch.load(io.BytesIO(packed), weights_only=True)["random"][rank]["cpu"]
                found[" ".join(choice.name for choice in trial.choices.values())] = random
    return found


@pytest.mark.slow
def test_two_processes_go_on_each_from_its_own_bytes(on_gloo):
    (processes,) = on_gloo("pytorch_optimizer").values()
    assert len(processes[0]) == 8
    for name, random in processes[0].items():
        assert not torch.equal(random, processes[1][name])


# ---- times ----------------------------------------------------------------------------------


def test_times_are_those_of_both_parts(make_trial):
    trial, data, base = case(make_trial)
    kept = []
    run_trial(trial, data, base, device=CPU, checkpoint=lambda s: kept.append(s.to_bytes()))
    before = torch.load(io.BytesIO(kept[0]), weights_only=True)
    row = run_trial(trial, data, base, device=CPU, resume=kept[0])
    assert row.epochs[0] == {"trial_id": trial.trial_id, **before["epochs"][0]}
    assert row.epochs[1]["elapsed_sec"] > row.epochs[0]["elapsed_sec"]
    assert row.trial["train_sec"] == row.epochs[-1]["elapsed_sec"]
    assert row.trial["setup_sec"] > before["clock"]["seconds"]["setup"]
    assert row.trial["wall_sec"] > before["clock"]["wall"]
    assert row.trial["started_at"].isoformat() == before["started_at"]
    assert row.trial["peak_memory_bytes"] >= before["peak_memory"]


def test_a_peak_of_memory_before_the_stop_counts(monkeypatch):
    first = small()
    monkeypatch.setattr(module, "peak_memory", lambda _device: 5000)
    packed = first.to_bytes()
    for now, expected in ((3000, 5000), (8000, 8000), (None, None)):
        monkeypatch.setattr(module, "peak_memory", lambda _device, now=now: now)
        second = small()
        second.load(packed)
        assert second.peak_memory() == expected


# ---- what is refused, and what cannot be written ---------------------------------------------


def new_state(net: nn.Module, optimizer: torch.optim.Optimizer, **changes) -> TrainingState:
    scaler = torch.amp.GradScaler("cpu", enabled=False)
    parts = StepParts(
        network=net,
        optimizer=optimizer,
        loss_of=lambda image, _goal: net(image).sum(),
        clock=Clock(CPU),
        processes=1,
        scaler=scaler,
    )
    fields = {
        "trial_id": "a0",
        "world": World(),
        "device": CPU,
        "started_at": train.datetime.now(train.UTC),
        "parts": parts,
        "layers": LayerGroups(net, MODELS["vgg_small"], None),
    }
    return TrainingState(**{**fields, **changes})


def small(**changes) -> TrainingState:
    net = nn.Linear(2, 2)
    return new_state(net, OPTIMIZERS["adam"].build(net.parameters()), **changes)


class Malice:
    def __reduce__(self) -> tuple[object, tuple[Path]]:
        return Path.touch, (Path("executed"),)


@pytest.mark.parametrize("what", ["pickle", "text", "empty", "cut", "other tensors"])
def test_what_is_no_state_is_refused_and_nothing_runs(tmp_path, monkeypatch, what):
    monkeypatch.chdir(tmp_path)
    whole = small().to_bytes()
    packed = io.BytesIO()
    torch.save({"version": Malice()} if what == "pickle" else {"a": torch.ones(1)}, packed)
    given = {"text": b"hello", "empty": b"", "cut": whole[: len(whole) // 2]}
    with pytest.raises(ValueError, match="state of a trial"):
        small().load(given.get(what, packed.getvalue()))
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"trial_id": "b1"}, "trial_id 'b1', but trial a0 needs 'a0'"),
        ({"world": World(size=2)}, "processes 2, but trial a0 needs 1"),
    ],
)
def test_the_state_of_another_trial_or_number_of_processes_is_refused(changes, said, monkeypatch):
    # The processes of a trial tell each other their random states; here there is one.
    monkeypatch.setattr(module.dist, "all_gather_object", lambda _list, _own: None)
    with pytest.raises(ValueError, match=said):
        small().load(small(**changes).to_bytes())


def test_the_state_of_another_version_is_refused(monkeypatch):
    packed = small().to_bytes()
    monkeypatch.setattr(module, "VERSION", module.VERSION + 1)
    with pytest.raises(ValueError, match="version 4, but trial a0 needs 5"):
        small().load(packed)


def test_what_cannot_be_read_back_is_not_written():
    state = small()
    state.parts.optimizer.param_groups[0]["helper"] = object()
    with pytest.raises(ValueError, match=r"trial a0: optimizer: param_groups.*is a object"):
        state.to_bytes()


def test_restarts_in_a_row_are_counted_across_a_stop():
    first = small()
    first.parts.memory.restarts = RESTARTS
    second = small()
    second.load(first.to_bytes())
    assert second.parts.memory.restarts == RESTARTS


def test_a_moving_average_goes_on_where_it_was(make_trial):
    changes = {"ema": 0.9, "clip": 0.5, "accumulate": 2, "batch_size": 2, "keep_weights": True}
    same(*make_trial("classification", **changes))


# ---- averages --------------------------------------------------------------------------------


def test_refreshed_statistics_are_those_of_an_undisturbed_run():
    image = torch.randn(16, 4, generator=torch.Generator().manual_seed(1))

    def make() -> TrainingState:
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4))
        return new_state(net, OPTIMIZERS["schedule_free_sgd"].build(net.parameters()))

    def train_on(state: TrainingState) -> None:
        for _ in range(3):
            state.parts.optimizer.zero_grad()
            state.parts.network(image).square().sum().backward()
            state.parts.optimizer.step()

    def judged(state: TrainingState) -> dict[str, torch.Tensor]:
        net = state.parts.network
        with evaluation_weights(state.parts.optimizer, net, lambda: [image]):
            return {name: value.clone() for name, value in net.state_dict().items()}

    whole, part, other = make(), make(), make()
    train_on(whole)
    train_on(part)
    judged(whole)
    judged(part)
    other.load(part.to_bytes())
    train_on(whole)
    train_on(other)
    assert bits(judged(whole)) == bits(judged(other))
    assert bits(whole.parts.network.state_dict()) == bits(other.parts.network.state_dict())
