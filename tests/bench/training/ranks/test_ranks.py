"""1, 2 and 3 ranks train alike: the same losses and weights, for every loss and kind of step.

Whole trials in float64, of batches that 3 ranks cannot share evenly, by the networks of the table
with batch norms (images) or instance norms (masks), on processes that gloo.py starts. One process
is the independent source: torch's own batch norm, no collective, and the whole batch at once.
"""

import os
import pickle
from pathlib import Path

import pytest
import torch
from torch import nn

from bench.core.processes import World
from bench.losses.table import LOSSES
from bench.study.choice import Choice
from bench.study.tasks import TASKS
from bench.training import train
from bench.training.networks import SharedBatchNorm, make_network
from tests.bench.training.samples.told import TOLD, told_data, told_store

SHARES = ((1,), (1, 1), (1, 1, 1))
CASES = "MEDOPT_TEST_CASES"
STEPS = 5
# Batches of 5 of the 22 cases to train on; L-BFGS takes them all, which 3 does not divide either.
BATCH = 5
KINDS = {
    "plain": {"optimizer": Choice(name="adamw"), "epochs": 2},
    "closure": {"optimizer": Choice(name="lbfgs", params={"max_iter": 2}), "epochs": 24},
    "two_pass": {"optimizer": Choice(name="sam"), "epochs": 4},
    "schedule_free": {"optimizer": Choice(name="schedule_free_adamw"), "epochs": 2},
    # Of 16 samples in three parts, of 5, 5 and 6; with a moving average, and clipped.
    "accumulate": {
        "optimizer": Choice(name="sgd", params={"lr": 0.1}),
        "epochs": 4,
        "accumulate": 3,
        "ema": 0.9,
        "clip": 0.5,
    },
}
KINDS["mixed"] = {**KINDS["plain"], "mixup": 0.4}
KINDS["mixed in parts"] = {**KINDS["accumulate"], "mixup": 0.4}
# Where the cut of a prediction at 1/2 makes a loss jump, a line search closes in on the jump, and
# rounding decides on which side it ends: this one gives up before it is there.
BRIEF = Choice(name="lbfgs", params={"max_iter": 2, "max_eval": 3})
OTHERWISE = {("closure", "hausdorff"): {"optimizer": BRIEF}}
# Kinds that the quick test tries beside cross-entropy or Dice: a coupled loss where there is one.
FEW = {
    "plain": ("ce", "classification"),
    "closure": ("auc_margin", "classification"),
    "two_pass": ("dice_batch", "segmentation"),
    "schedule_free": ("auc_margin", "classification"),
    "accumulate": ("dice_batch", "segmentation"),
    "mixed in parts": ("auc_margin", "classification"),
}
# A loss of which each process sees its own samples alone, which must be told apart.
ASTRAY = "astray"


def tasks_of(loss):
    """Return the tasks that a loss serves, by the names of the small stores."""
    return [name for name, row in TASKS.items() if row.served_by in LOSSES[loss].tasks]


def name_of(kind, loss, task):
    return f"{kind} {loss} {task}"


def every_case():
    """Return (kind, loss, task): each loss by each kind, and by plain steps in all its tasks."""
    found = []
    for loss in LOSSES:
        first, *others = [t for t in tasks_of(loss) if t in SMALL]
        found += [(kind, loss, first) for kind in KINDS]
        found += [("plain", loss, task) for task in others]
    return found


SMALL = ("classification", "segmentation", "multilabel", "regression", "ordinal")
FEW_CASES = [(kind, *FEW[kind]) for kind in FEW]


# ---- a rank ----------------------------------------------------------------------------------


def doubled(*given, **more):
    """Make a trial's network in float64; it takes images of any precision."""
    net, _ = make_network(*given, **more)
    net = net.double()
    for module in net.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0  # each rank has draws of its own
    net.register_forward_pre_hook(lambda _net, images: tuple(i.double() for i in images))
    return net, net


def trained(trial, data, base, world):
    """Train; return the loss of each step, those of the looks, and the last weights."""
    losses, last = [], []

    def noting(make):
        def made(parts):
            step = make(parts)

            def noted(image, goal, left):
                done = step(image, goal, left)
                losses.append(float(done[0]))
                return done

            return noted

        return made

    def keep(state):
        network = state.parts.network.state_dict()
        last[:] = [{name: value.clone() for name, value in network.items()}]

    train.make_network = doubled
    steps, train.STEPS = train.STEPS, {k: noting(make) for k, make in train.STEPS.items()}
    over, train.over_processes = train.over_processes, train.over_processes
    if trial.trial_id == ASTRAY:
        train.over_processes = train.alone
    try:
        device = torch.device("cpu")
        outcome = train.run_trial(trial, data, base, device=device, world=world, checkpoint=keep)
    finally:
        train.make_network, train.STEPS, train.over_processes = make_network, steps, over
    looks = [row["val_loss"] for row in outcome.epochs if row["val_loss"] is not None]
    return {"losses": losses, "looks": looks, "weights": last[0]}


def work(rank, shares):
    """Be one rank: all trials, one after another."""
    cases = pickle.loads(Path(os.environ[CASES]).read_bytes())
    world = World(rank=rank, size=len(shares))
    return {name: trained(*given, world) for name, given in cases.items()}


# ---- what is compared ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def ranks(on_gloo, make_trial, tmp_path_factory):
    """Return a function of cases -> {shares: what each rank found}."""

    def run(cases, **also):
        given = {
            name_of(kind, loss, task): make_trial(
                task,
                loss=Choice(name=loss),
                model=Choice(name="unet_small" if task == "segmentation" else "vgg_small"),
                batch_size=BATCH,
                inner_only=True,
                looks=1,
                **KINDS[kind] | OTHERWISE.get((kind, loss), {}),
            )
            for kind, loss, task in cases
        }
        given |= also
        file = tmp_path_factory.mktemp("cases") / "cases.pickle"
        file.write_bytes(pickle.dumps(given))
        with pytest.MonkeyPatch.context() as own:
            own.setenv(CASES, str(file))  # read by `work`, in the ranks
            return on_gloo("pytorch_optimizer", "monai.losses", seconds=3000)

    return run


@pytest.fixture(scope="module")
def few(ranks, make_trial, tmp_path_factory):
    astray = make_trial(
        "segmentation",
        loss=Choice(name="dice_batch"),
        batch_size=BATCH,
        inner_only=True,
        looks=1,
        trial_id=ASTRAY,
        **KINDS["plain"],
    )
    data = told_data(told_store(tmp_path_factory.mktemp("told") / "store"))
    told = {}
    for name, changes in TOLD.items():
        fields = {"batch_size": BATCH, "inner_only": True, "looks": 1, **KINDS["plain"], **changes}
        trial, _, base = make_trial("classification", model=Choice(name="vgg_small"), **fields)
        told[name] = trial, data, base
    return ranks(FEW_CASES, **{ASTRAY: astray}, **told)


@pytest.fixture(scope="module")
def everything(ranks, request):
    """Return what was found of the cases that are asked for: all of them, or those of a `-k`."""
    asked = (getattr(item, "callspec", None) for item in request.session.items)
    chosen = {spec.params["case"] for spec in asked if spec and "case" in spec.params}
    return ranks([case for case in every_case() if case in chosen])


def hold(found, name):
    """Assert that every rank of every set found what one process did."""
    (alone,) = (rank[name] for rank in found[SHARES[0]])
    assert len(alone["losses"]) >= STEPS
    for shares in SHARES[1:]:
        for rank in found[shares]:
            theirs = rank[name]
            assert theirs["losses"] == approximately(alone["losses"])
            assert theirs["looks"] == approximately(alone["looks"])
            assert theirs["weights"].keys() == alone["weights"].keys()
            for key, value in alone["weights"].items():
                torch.testing.assert_close(theirs["weights"][key], value, rtol=1e-5, atol=1e-5)


def approximately(values):
    return pytest.approx(values, rel=1e-5, abs=1e-5)


@pytest.mark.parametrize("case", FEW_CASES, ids=" ".join)
def test_ranks_train_as_one_process(few, case):
    hold(few, name_of(*case))


@pytest.mark.parametrize("told", TOLD)
def test_ranks_are_told_what_one_process_is(few, told):
    """Clinical data and answers of readers: each rank has those of its own samples."""
    hold(few, told)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("case", every_case(), ids=" ".join)
def test_ranks_train_as_one_process_by_every_loss_and_kind_of_step(everything, case):
    hold(everything, name_of(*case))


def test_ranks_that_do_not_share_a_coupled_loss_are_told_apart(few):
    (alone,) = few[SHARES[0]]
    for shares in SHARES[1:]:
        for rank in few[shares]:
            gap = max(
                abs(a - b)
                for a, b in zip(alone[ASTRAY]["losses"], rank[ASTRAY]["losses"], strict=True)
            )
            assert gap > 1e-4


def test_ranks_hold_the_same_weights_to_the_bit(few):
    for shares in SHARES[1:]:
        first, *others = few[shares]
        for name, found in first.items():
            for other in others:
                for key, value in found["weights"].items():
                    assert torch.equal(value, other[name]["weights"][key]), (name, key)


# ---- batch norms -----------------------------------------------------------------------------


def test_a_shared_batch_norm_keeps_names_tensors_and_what_timms_ends_with():
    timm = pytest.importorskip("timm.layers")
    norm = timm.BatchNormAct2d(3)
    own = SharedBatchNorm(norm)
    assert own.state_dict().keys() == norm.state_dict().keys()
    assert own.weight is norm.weight
    assert own.running_var is norm.running_var
    image = torch.randn(4, 3, 5, 5, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(own.eval()(image), norm.eval()(image))
    assert float(own(image).detach().min()) == 0.0  # its ReLU
