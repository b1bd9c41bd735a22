"""Recipes are run: what their text builds is what the tables of the project build."""

import json
import math
import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from bench.losses.table import LOSSES, alone
from bench.optimizers.schedules import SCHEDULES
from bench.optimizers.table import OPTIMIZERS
from bench.study.tasks import TASKS
from results.export import recipe as module
from results.export.recipe import FORMS, STEPS, TORCH, recipe
from results.run_folder import Recorded
from results.tables.store import RunError
from tests.golden.test_recorded import HERE
from tests.results.conftest import DATA

SCANS = (("scans", "segmentation"),)
IMAGES = (("lung-nodules", "classification"),)


def ran(text):
    """Return what a recipe defines."""
    space = {}
    exec(compile(text, "recipe.py", "exec"), space)
    return SimpleNamespace(**space)


@pytest.fixture
def made(make_run):
    """Return a function that makes a run of one combination and writes its recipe."""

    def make(form="pytorch", *, data=IMAGES, optimizer="adam", loss="ce", study=None, about=None,
             **options):  # fmt: skip
        hparams = json.dumps(dict(OPTIMIZERS[optimizer].settings({})))
        schedule = options.pop("schedule", "constant")
        resolved = {
            "losses": {loss: dict(LOSSES[loss].settings({}))},
            "schedules": {schedule: dict(SCHEDULES[schedule].settings({}))},
        }
        run = make_run(
            f"{form}-{optimizer}-{loss}-{schedule}",
            datasets=data, models=("unet" if data == SCANS else "plain_cnn",),
            optimizers=(optimizer,), losses=(loss,), folds=2, examples=False,
            columns={"hparams": hparams, "schedule": schedule, **options}, data=about or DATA,
            study={"resolved": json.loads(json.dumps(resolved)), "schedules": [{"name": schedule}],
                   **(study or {})},
        )  # fmt: skip
        name = f"{'unet' if data == SCANS else 'plain_cnn'} + {optimizer} + {loss}"
        if schedule != "constant":
            name += f" + {schedule}"
        return recipe(run, form, name=name)

    return make


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_optimizer_is_the_tables_own_and_trains(made, name):
    found = ran(made(optimizer=name))
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 16), nn.Tanh(), nn.Linear(16, 2))
    ours = OPTIMIZERS[name].build(model.parameters())
    theirs = found.make_optimizer(model.parameters())
    assert type(theirs) is type(ours)
    assert settings_of(theirs) == settings_of(ours)
    image, target = torch.randn(16, 3, 4), torch.tensor([0, 1] * 8)
    image[target == 1] += 1
    if STEPS.get(name) == "averaged":
        theirs.train()
    losses = [found.train_step(model, theirs, image, target) for _ in range(30)]
    assert all(map(math.isfinite, losses))
    assert losses[-1] < losses[0]


def settings_of(optimizer):
    (group, *more) = optimizer.param_groups
    assert not more or len(more) == 1  # Muon's own has one for other parameters
    return [
        {key: value for key, value in group.items() if key != "params"} for group in (group, *more)
    ]


def test_the_kinds_of_steps_are_those_of_the_table():
    averaged = {name for name, row in OPTIMIZERS.items() if row.averages}
    assert {name for name, kind in STEPS.items() if kind == "averaged"} == averaged
    assert {name: row.step for name, row in OPTIMIZERS.items() if row.step != "plain"} == {
        name: kind for name, kind in STEPS.items() if kind != "averaged"
    }
    for name, cls in TORCH.items():
        assert type(OPTIMIZERS[name].build([torch.zeros(2, 2)])) is getattr(torch.optim, cls)


@pytest.mark.parametrize("form", ["pytorch", "monai"])
@pytest.mark.parametrize(
    ("name", "task"), [(name, task) for name, row in LOSSES.items() for task in row.tasks]
)
def test_the_loss_is_the_tables_own(made, form, name, task):
    data = SCANS if task == "segmentation" else IMAGES
    found = ran(made(form, data=data, loss=name))
    shape = (3, 3, 8, 8) if task == "segmentation" else (6, 3)
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(shape, generator=generator)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        target = TASKS[task].target(shape)
    weights = torch.tensor([0.5, 1.0, 2.0]) if LOSSES[name].weighted else None
    wanted = LOSSES[name].bind({})(logits, target, weights, alone).mean()
    assert float(found.loss_of(logits, target, weights)) == pytest.approx(float(wanted), rel=1e-5)


@pytest.mark.parametrize("name", SCHEDULES)
def test_the_schedule_is_the_tables_own(made, name):
    found = ran(made(schedule=name))
    wanted = SCHEDULES[name].bind({})
    for spent in np.linspace(0, 1, 101):
        assert found.factor(spent, 0.01) == pytest.approx(wanted(spent, 0.01), abs=1e-12)
    optimizer = found.make_optimizer([nn.Parameter(torch.ones(1))])
    scheduler = found.make_scheduler(optimizer)
    rates = []
    for _ in range(found.STEPS):
        rates.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
    shares = np.arange(found.STEPS) / found.STEPS
    assert rates == pytest.approx([1e-3 * wanted(s, 1 / found.STEPS) for s in shares])


def test_budget_and_network(made):
    found = ran(made("monai", data=SCANS, loss="dice_ce"))
    # 8 epochs of 320 cases, 32 a step.
    assert (found.EPOCHS, found.BATCH_SIZE, found.STEPS) == (8, 32, 80)
    network = found.make_model(2, 4, (32, 32))
    assert network(torch.zeros(1, 2, 32, 32)).shape == (1, 4, 32, 32)
    whole = found.make_inferer((32, 32))(torch.zeros(1, 2, 40, 48), network)
    assert whole.shape == (1, 4, 40, 48)


@pytest.mark.parametrize(
    ("options", "ended"),
    [
        ({"looks": 2}, "all"),
        ({"looks": 10}, "all"),
        ({"looks": 11}, "or fewer: a trial ends after 10 looks without a better score"),
        ({"looks": 11, "early_stopping": False}, "all"),
        ({}, "all"),  # of an older version: a look an epoch
    ],
)
def test_patience_is_a_rule_and_said_where_it_may_act(made, options, ended):
    text = " ".join(made(study={"patience": 10, "epochs": 8}, **options).replace("#", " ").split())
    assert f"8 epochs of about 320 training cases ({ended}). Precision" in text


def test_whole_images_go_through_in_one_pass(made):
    found = ran(made("monai", data=SCANS, loss="dice_ce", study={"inference": "whole"}))
    network = found.make_model(2, 4, (32, 32))
    sizes = []

    def noted(image):
        sizes.append(tuple(image.shape))
        return network(image)

    assert found.make_inferer((32, 32))(torch.zeros(1, 2, 40, 48), noted).shape == (1, 4, 40, 48)
    assert sizes == [(1, 2, 40, 48)]


def test_the_transforms_of_monai_are_the_studys(made):
    augment = {"flip": [True, False, True], "scale": 0.1, "shift": 0.2, "rotate": 10.0}
    text = made("monai", data=SCANS, study={"augment": augment})
    found = ran(text)
    steps = found.make_transforms().transforms
    assert [type(step).__name__ for step in steps] == [
        "RandFlipd",
        "RandFlipd",
        "RandScaleIntensityd",
        "RandShiftIntensityd",
    ]
    assert [step.flipper.spatial_axis for step in steps[:2]] == [0, 2]
    assert steps[2].scaler.factors == (-0.1, 0.1)
    assert "rotate: not written here" in text


@pytest.fixture
def nnunetv2(monkeypatch):
    """Stand in for nnU-Net, which is not installed here: the parts that a trainer meets."""

    class Trainer:
        def __init__(self):
            self.num_iterations_per_epoch = 250
            self.network = nn.Conv2d(1, 3, 1)
            self.enable_deep_supervision = True
            self.is_ddp = False

        def _get_deep_supervision_scales(self):
            return [[1, 1], [0.5, 0.5], [0.25, 0.25]]

    class Wrapper(nn.Module):
        def __init__(self, loss, weights):
            super().__init__()
            self.loss, self.weights = loss, weights

    for name, content in {
        "nnunetv2": {},
        "nnunetv2.training": {},
        "nnunetv2.training.loss": {},
        "nnunetv2.training.loss.deep_supervision": {"DeepSupervisionWrapper": Wrapper},
        "nnunetv2.training.nnUNetTrainer": {},
        "nnunetv2.training.nnUNetTrainer.nnUNetTrainer": {"nnUNetTrainer": Trainer},
    }.items():
        stub = ModuleType(name)
        stub.__dict__.update(content)
        monkeypatch.setitem(sys.modules, name, stub)


def test_nnunets_trainer_has_optimizer_schedule_loss_and_budget(made, nnunetv2):
    found = ran(
        made("nnunet", data=SCANS, optimizer="sgd_nesterov", loss="dice_ce", schedule="polynomial")
    )
    trainer = found.nnUNetTrainerMedOpt()
    assert trainer.num_epochs == 1  # 80 steps of 250
    optimizer, schedule = trainer.configure_optimizers()
    assert settings_of(optimizer)[0]["momentum"] == 0.99
    assert schedule.get_last_lr() == [0.01]
    loss = trainer._build_loss()
    assert loss.weights == pytest.approx([2 / 3, 1 / 3, 0])
    logits, target = torch.randn(2, 3, 8, 8), torch.randint(0, 3, (2, 1, 8, 8)).float()
    wanted = LOSSES["dice_ce"].bind({})(logits, target[:, 0].long(), None, alone).mean()
    assert float(loss.loss(logits, target)) == pytest.approx(float(wanted), rel=1e-5)


@pytest.mark.parametrize("form", FORMS)
def test_voxels_that_are_ignored_cost_nothing(made, nnunetv2, form):
    """Against torch's own, which leaves out a label by its number."""
    about = {"segmentation": {"ignored": {"label": 3, "number": 9}}}
    text = made(form, data=SCANS, loss="ce", about=about)
    assert "# Voxels of label 3 are of no class" in text
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn((2, 3, 8, 8), generator=generator, requires_grad=True)
    target = torch.randint(0, 4, (2, 8, 8), generator=generator)
    wanted = sum(
        nn.functional.cross_entropy(own[None], labels[None], ignore_index=3)
        for own, labels in zip(logits, target, strict=True)
    ) / len(target)
    found = ran(text)
    assert found.loss_of(logits, target).item() == pytest.approx(wanted.item(), rel=1e-5)
    if form == "nnunet":
        loss = found.nnUNetTrainerMedOpt()._build_loss().loss
        assert loss(logits, target[:, None].float()).item() == pytest.approx(
            wanted.item(), rel=1e-5
        )
    found = ran(made(form, data=SCANS, loss="dice_ce", about=about))
    (slope,) = torch.autograd.grad(found.loss_of(logits, target), logits)
    assert (slope.abs().sum(1)[target == 3] == 0).all()
    assert (slope.abs().sum(1)[target < 3] > 0).all()


def test_what_nnunet_cannot_have_is_refused(made):
    with pytest.raises(RunError, match="nnU-Net only segments"):
        made("nnunet")
    with pytest.raises(RunError, match="not how lbfgs steps"):
        made("nnunet", data=SCANS, optimizer="lbfgs")


def test_which_combination_is_asked_for(make_run):
    run = make_run(folds=3, optimizers=("adamw", "sgd"), losses=("ce",))
    with pytest.raises(RunError, match=r"several data sets: name one as `data` \(lung-nodules, b"):
        recipe(run, "pytorch")
    with pytest.raises(RunError, match="no data set 'x'; choices: lung-nodules, brain-tumours"):
        recipe(run, "pytorch", data="x")
    with pytest.raises(RunError, match=r"no scored combination 'x'; choices: resnet18 \+ adamw"):
        recipe(run, "pytorch", data="lung-nodules", name="x")
    text = recipe(run, "pytorch", data="lung-nodules", name="resnet18 + sgd + ce")
    assert text.startswith("# resnet18 + sgd + ce, for PyTorch. Run run, lung-nodules")
    one = make_run("one", optimizers=("adamw",), losses=("ce",), datasets=IMAGES)
    with pytest.raises(RunError, match="nothing is recommended on lung-nodules: No verdict"):
        recipe(one, "pytorch")


def test_a_schedule_that_an_older_version_did_not_record_is_refused(make_run):
    cosine = {"schedules": [{"name": "cosine", "params": {}}]}
    run = make_run(
        optimizers=("adam",), losses=("ce",), datasets=IMAGES, columns={"schedule": "cosine"},
        study=cosine,
    )  # fmt: skip
    with pytest.raises(RunError, match="does not say every setting of the schedule cosine"):
        recipe(run, "pytorch", name="resnet18 + adam + ce + cosine")


@pytest.mark.parametrize("form", FORMS)
def test_the_recommended_of_a_run_of_the_product(form):
    text = recipe(HERE / "recorded", form, data="volumes")
    compile(text, "recipe.py", "exec")
    data = next(
        d for d in Recorded(HERE / "recorded").verdict["datasets"] if d["dataset"] == "volumes"
    )
    said = " ".join(text.replace("#", " ").split())
    assert said.startswith(f"{data['recommended']}, for ")
    reason = " ".join(data["reason"].split())
    assert f"Verdict: {data['state']}. {reason}" in said


EVIL = """x\n\"\"\"\nraise SystemExit(1)\n#'"""


@pytest.mark.parametrize(("with_study", "evil"), [(False, EVIL), (True, EVIL.replace("\n", ""))])
def test_names_and_settings_of_a_run_are_never_code(make_run, with_study, evil):
    run = make_run(
        datasets=((evil, "classification"),), optimizers=(f"adam({evil})",), losses=("ce",),
        folds=2, models=("plain_cnn",), columns={"hparams": json.dumps({"lr": 0.1, "note": evil})},
        with_study=with_study, data={},
        study={"name": evil, "normalize": evil, "augment": {evil: evil},
               "resolved": {"losses": {"ce": {"label_smoothing": evil}}}},
    )  # fmt: skip
    text = recipe(run, "pytorch", name=f"plain_cnn + adam({evil}) + ce")
    found = ran(text)  # SystemExit here would be theirs
    assert found.BATCH_SIZE == 32
    assert all(line.startswith("#") for line in text.split("import math")[0].splitlines() if line)
    with pytest.raises(RunError, match="not a valid Python name"):
        module._arguments({evil: 1})
