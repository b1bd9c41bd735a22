"""Every row of the table of optimizers, and what only some of them do."""

import inspect
import io
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from math import log, prod

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bench.core.timing import Clock
from bench.optimizers.averaging import evaluation_weights
from bench.optimizers.spec import MOST_STATE_BYTES, WIDEST, Optimizer, Space, state_bytes
from bench.optimizers.state_size import shapes_of
from bench.optimizers.steps import STEPS, Step, StepParts
from bench.optimizers.table import OPTIMIZERS

# A row that is in no table: the contract below needs no edit to meet it.
NEWCOMER = Optimizer(
    name="newcomer",
    constructor=torch.optim.Adamax,
    defaults={"lr": 2e-3, "betas": (0.9, 0.999), "eps": 1e-8},
    space={"lr": Space(low=2e-4, high=2e-2, log=True)},
    state_floats=2,
    summary="Adam with the largest gradient in place of the mean square",
    source="Kingma and Ba 2015, arXiv 1412.6980, algorithm 2",
)
TABLE = [*OPTIMIZERS.values(), NEWCOMER]
ROWS = [pytest.param(row, id=row.name) for row in TABLE]
CPU = torch.device("cpu")


def small_cnn() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1),
        nn.GroupNorm(4, 8),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(8, 16, 3, padding=1),
        nn.GroupNorm(4, 16),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(16 * 3 * 3, 32),
        nn.ReLU(),
        nn.Linear(32, 2),
    )


def block(inputs: int, outputs: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, padding=1, bias=False),
        nn.InstanceNorm2d(outputs, affine=True),
        nn.ReLU(),
    )


class SmallUNet(nn.Module):
    """Three levels of 4, 8 and 16 channels, transposed convolutions upwards."""

    def __init__(self) -> None:
        super().__init__()
        self.down1, self.down2, self.bottom = block(1, 4), block(4, 8), block(8, 16)
        self.rise2, self.up2 = nn.ConvTranspose2d(16, 8, 2, 2), block(16, 8)
        self.rise1, self.up1 = nn.ConvTranspose2d(8, 4, 2, 2), block(8, 4)
        self.head = nn.Conv2d(4, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        one = self.down1(x)
        two = self.down2(F.max_pool2d(one, 2))
        deep = self.bottom(F.max_pool2d(two, 2))
        two = self.up2(torch.cat([two, self.rise2(deep)], 1))
        return self.head(self.up1(torch.cat([one, self.rise1(two)], 1)))


def small_unet() -> nn.Module:
    torch.manual_seed(0)
    return SmallUNet()


def images(n: int, side: int) -> tuple[Tensor, Tensor]:
    """Return noisy 12 x 12 images (n, 1, 12, 12), and masks of a square of `side` in each."""
    generator = torch.Generator().manual_seed(0)
    image, mask = torch.randn(n, 1, 12, 12, generator=generator), torch.zeros(n, 12, 12).long()
    corner = torch.randint(0, 13 - side, (n, 2), generator=generator).tolist()
    for i, (y, x) in enumerate(corner):
        mask[i, y : y + side, x : x + side] = 1
    return image, mask


def lesions(n: int = 128) -> tuple[Tensor, Tensor]:
    """Return images with a bright square in every second one, and whether it is there (n,)."""
    image, mask = images(n, 4)
    label = torch.arange(n) % 2
    return image + 3.0 * (mask * label[:, None, None])[:, None], label


def outlines(n: int = 64) -> tuple[Tensor, Tensor]:
    """Return images with a bright square in each, and its mask (n, 12, 12)."""
    image, mask = images(n, 6)
    return image + 3.0 * mask[:, None], mask


# network, data, batch, and the budget in sample-gradients
TASKS = {"cnn": (small_cnn, lesions, 16, 16 * 128), "unet": (small_unet, outlines, 8, 16 * 64)}
# How much longer a row may take: RAdam's steps are short until its variance is known.
LONGER = {"radam": 1.5}


def stepper(row: Optimizer, network: nn.Module, optimizer: torch.optim.Optimizer) -> Step:
    def loss_of(image: Tensor, label: Tensor) -> Tensor:
        return F.cross_entropy(network(image), label)

    scaler = torch.amp.GradScaler("cpu", enabled=False)
    parts = StepParts(
        network=network,
        optimizer=optimizer,
        loss_of=loss_of,
        clock=Clock(CPU),
        processes=1,
        scaler=scaler,
    )
    return STEPS[row.step](parts)


def train(
    row: Optimizer, task: str, budget: int | None = None
) -> tuple[float, float, nn.Module, torch.optim.Optimizer]:
    """Return the loss over all images before and after, the network and the optimizer.

    Spends `budget` sample-gradients, whatever the optimizer does with them.
    """
    make, data, batch, whole_budget = TASKS[task]
    network, (image, label) = make(), data()
    optimizer = row.build(network.parameters())
    step = stepper(row, network, optimizer)
    batch = min(batch * row.batch_multiple, len(image))

    def loss() -> float:
        with evaluation_weights(optimizer, network, lambda: [image]), torch.no_grad():
            return F.cross_entropy(network(image), label).item()

    budget = budget or int(whole_budget * LONGER.get(row.name, 1))
    before, left = loss(), budget // batch
    generator = torch.Generator().manual_seed(0)
    order: list[Tensor] = []
    while left:
        order = order or list(torch.randperm(len(image), generator=generator).split(batch))
        chosen = order.pop()
        left -= step(image[chosen], label[chosen], left)[1]
    return before, loss(), network, optimizer


@lru_cache
def trained(name: str, task: str) -> tuple[float, float, nn.Module, torch.optim.Optimizer]:
    return train(next(row for row in TABLE if row.name == name), task)


def counted(evaluate: Callable[[], Tensor], calls: list[float]) -> Callable[[], float]:
    """Return a closure that evaluates the gradient of `evaluate` and notes its value."""

    def closure() -> float:
        optimizer_sees = evaluate()
        optimizer_sees.backward()
        calls.append(optimizer_sees.item())
        return calls[-1]

    return closure


# ---------------------------------------------------------------- every row


def test_every_row_is_filed_under_its_name() -> None:
    assert all(name == row.name for name, row in OPTIMIZERS.items())
    assert {"sgd", "adagrad", "rmsprop", "adam", "adamw", "lbfgs"} <= set(OPTIMIZERS)
    assert len(OPTIMIZERS) >= 20


@pytest.mark.parametrize("row", ROWS)
def test_rows_are_whole(row: Optimizer) -> None:
    assert row.summary
    assert row.source
    assert row.drives
    assert row.step in STEPS
    assert row.batch_multiple >= 1
    assert json.loads(json.dumps(row.defaults)) == json.loads(json.dumps(row.settings({})))
    assert row.space
    for name, space in row.space.items():
        default = row.defaults[name]
        assert isinstance(default, float), name
        assert space.low <= default <= space.high
        assert not space.log or space.low > 0
    for corner in ("low", "high"):
        chosen = {name: getattr(space, corner) for name, space in row.space.items()}
        row.build(small_cnn().parameters(), **chosen)
    texts = {name for name, value in row.defaults.items() if isinstance(value, str)}
    assert texts == set(row.choices)
    for name, choices in row.choices.items():
        for choice in choices:
            row.build(small_cnn().parameters(), **{name: choice})
            made = row.chosen({name: choice})
            assert made.settings({}) == row.settings({name: choice}) == made.defaults
            assert all(s.low <= made.defaults[n] <= s.high for n, s in made.space.items())


@pytest.mark.parametrize("row", ROWS)
def test_every_setting_reaches_the_optimizer(row: Optimizer) -> None:
    seen: list[dict[str, object]] = []

    def recorder(params: object, **given: object) -> torch.optim.Optimizer:
        seen.append(given)
        return row.constructor(params, **given)

    lr = row.defaults["lr"] / 2
    for given in ({}, {"lr": lr}):
        optimizer = replace(row, constructor=recorder).build(small_cnn().parameters(), **given)
        assert seen[-1] == {**row.defaults, **given}
        assert all(group["lr"] == seen[-1]["lr"] for group in optimizer.param_groups)


# Settings that have another name here than in the class that they reach.
RENAMED = {
    "ademamix": {"warmup_steps"},
    "shampoo": {"graft", "precondition_frequency"},
    "sam": {"base", "lr", "momentum", "nesterov", "weight_decay"},
}


@pytest.mark.parametrize("row", ROWS)
def test_no_setting_is_swallowed(row: Optimizer) -> None:
    # pytorch-optimizer's constructors take any name without a word.
    optimizer = row.build(small_cnn().parameters())
    taken = set(inspect.signature(type(optimizer)).parameters)
    assert set(row.defaults) <= taken | RENAMED.get(row.name, set())


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("row", ROWS)
def test_halves_the_loss_of_a_small_network(row: Optimizer, task: str) -> None:
    before, after, _, _ = trained(row.name, task)
    assert before == pytest.approx(log(2), abs=0.05)
    assert after <= before / 2


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("row", ROWS)
def test_state_is_as_large_as_claimed(row: Optimizer, task: str) -> None:
    _, _, network, optimizer = trained(row.name, task)
    claim = row.state_numbers(shapes_of(network.parameters()), {})
    assert claim is not None
    assert state_bytes(optimizer) / 4 == pytest.approx(claim, rel=0.1)


@pytest.mark.parametrize("row", ROWS)
def test_trains_the_same_twice(row: Optimizer) -> None:
    # 5 evaluations on all images, or 40 steps of 16 of them
    budget = 5 * 128
    ends = [[p.detach() for p in train(row, "cnn", budget)[2].parameters()] for _ in range(2)]
    assert all(torch.equal(a, b) for a, b in zip(*ends, strict=True))


@pytest.mark.parametrize("row", ROWS)
def test_state_saved_and_loaded_continues_bit_for_bit(row: Optimizer) -> None:
    image, label = lesions(32)
    network = small_cnn()
    optimizer = row.build(network.parameters())

    def go_on(network: nn.Module, optimizer: torch.optim.Optimizer, steps: int) -> list[Tensor]:
        step = stepper(row, network, optimizer)
        for _ in range(steps):
            step(image, label, 10**6)
        return [p.detach().clone() for p in network.parameters()]

    # Past Shampoo's first roots, and just before Sophia's third Hessian.
    go_on(network, optimizer, 29)
    file = io.BytesIO()
    torch.save({"net": network.state_dict(), "optimizer": optimizer.state_dict()}, file)
    file.seek(0)
    saved = torch.load(file, weights_only=True)
    twin = small_cnn()
    twin.load_state_dict(saved["net"])
    fresh = row.build(twin.parameters())
    fresh.load_state_dict(saved["optimizer"])
    assert state_bytes(fresh) == pytest.approx(state_bytes(optimizer), abs=64)
    torch.manual_seed(1)
    expected = go_on(network, optimizer, 14)
    torch.manual_seed(1)
    found = go_on(twin, fresh, 14)
    assert all(torch.equal(a, b) for a, b in zip(expected, found, strict=True))


@pytest.mark.parametrize("row", ROWS)
def test_a_group_has_a_rate_of_its_own_unless_the_row_says_otherwise(row: Optimizer) -> None:
    image, label = lesions(16)
    network = small_cnn()
    lower, upper = list(network[:5].parameters()), list(network[5:].parameters())
    groups = [{"params": lower, "lr": 0.0}, {"params": upper}]
    if row.one_group:
        with pytest.raises(ValueError, match=f"{row.name} takes one group of parameters, not 2"):
            row.build(groups)
        return
    before = [p.detach().clone() for p in network.parameters()]
    step = stepper(row, network, row.build(groups))
    for _ in range(4):
        step(image, label, 100)
    still = [torch.equal(p, b) for p, b in zip(network.parameters(), before, strict=True)]
    assert still == [True] * len(lower) + [False] * len(upper)


@pytest.mark.parametrize("row", ROWS)
def test_frozen_parameters_stay_as_they_are(row: Optimizer) -> None:
    image, label = lesions(16)
    network = small_cnn()
    network[0].requires_grad_(requires_grad=False)
    before = [p.detach().clone() for p in network.parameters()]
    step = stepper(row, network, row.build(network.parameters()))
    for _ in range(4):
        step(image, label, 100)
    still = [torch.equal(p, b) for p, b in zip(network.parameters(), before, strict=True)]
    assert still == [True] * 2 + [False] * (len(before) - 2)


# What rows keep that is no moment of the gradient: weights, and lamb's lengths of weights and step.
NO_MOMENTS = (".z", ".p0", ".weight_norm", ".adam_norm", ".trust_ratio")


def first_step(row: Optimizer, network: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Make the first step that decays the weights: soap's first one only starts its statistics."""
    step = stepper(row, network, optimizer)
    torch.manual_seed(1)
    for _ in range(2 if row.name == "soap" else 1):
        step(*lesions(16), 100)


def after_a_step(row: Optimizer, decay: float) -> tuple[list[Tensor], dict[str, Tensor]]:
    """Return the weights after the first step, and the moments that are kept."""
    network = small_cnn()
    optimizer = row.build(network.parameters(), weight_decay=decay)
    first_step(row, network, optimizer)
    kept: dict[str, Tensor] = {}

    def keep(name: str, value: object) -> None:
        if isinstance(value, dict | list | tuple):
            pairs = value.items() if isinstance(value, dict) else enumerate(value)
            for key, inner in pairs:
                keep(f"{name}.{key}", inner)
        elif isinstance(value, Tensor) and not name.endswith(NO_MOMENTS):
            kept[name] = value.clone()

    keep("", optimizer.state_dict()["state"])
    return [p.detach() for p in network.parameters()], kept


@pytest.mark.parametrize("row", ROWS)
def test_decay_is_coupled_where_the_moments_know_of_it(row: Optimizer) -> None:
    assert (row.decay == "none") == ("weight_decay" not in row.defaults)
    if row.decay == "none":
        return
    (bare, without), (decayed, moments) = after_a_step(row, 0.0), after_a_step(row, 0.1)
    assert any(not torch.equal(a, b) for a, b in zip(bare, decayed, strict=True))
    assert without.keys() == moments.keys()
    same = all(torch.equal(value, without[name]) for name, value in moments.items())
    assert row.decay == ("decoupled" if same else "coupled")


@pytest.mark.parametrize("row", [r for r in ROWS if not r.values[0].one_group])
def test_a_group_has_a_decay_of_its_own(row: Optimizer) -> None:
    """So norms and biases can go without: they end where they do with no decay at all."""
    if row.decay == "none":
        return
    ends = []
    for decay in (0.0, 0.1):
        network = small_cnn()
        flat = [p for p in network.parameters() if p.ndim == 1]
        whole = [p for p in network.parameters() if p.ndim > 1]
        groups = [{"params": whole}, {"params": flat, "weight_decay": 0.0}]
        first_step(row, network, row.build(groups, weight_decay=decay))
        ends.append([p.detach() for p in network.parameters()])
    for a, b in zip(*ends, strict=True):
        assert torch.equal(a, b) == (a.ndim == 1)


@pytest.mark.parametrize("row", [*ROWS, OPTIMIZERS["sam"].chosen({"base": "adam"}),
                                 OPTIMIZERS["shampoo"].chosen({"graft": "sgd"})])  # fmt: skip
def test_steps_are_as_long_at_a_hundred_times_the_loss_where_the_row_says_so(
    row: Optimizer,
) -> None:
    image, label = lesions(64)
    lengths = []
    for factor in (1.0, 100.0):
        network = small_cnn()
        start = [p.detach().clone() for p in network.parameters()]
        optimizer = row.build(network.parameters())
        parts = StepParts(
            network=network,
            optimizer=optimizer,
            loss_of=lambda x, y, n=network, f=factor: f * F.cross_entropy(n(x), y),
            clock=Clock(CPU),
            processes=1,
            scaler=torch.amp.GradScaler("cpu", enabled=False),
        )
        step = STEPS[row.step](parts)
        torch.manual_seed(1)
        for _ in range(12):
            step(image, label, 1000)
        moved = [p.detach() - s for p, s in zip(network.parameters(), start, strict=True)]
        lengths.append(float(nn.utils.get_total_norm(moved)))
    assert row.scale_free == (0.5 < lengths[1] / lengths[0] < 2), lengths


@pytest.mark.parametrize("row", ROWS)
def test_coverage_is_a_share(row: Optimizer) -> None:
    for make in (small_cnn, small_unet):
        share = row.coverage(make().parameters())
        assert 0 < share <= 1
        assert (row.drives == "every parameter") == (share == 1)


@pytest.mark.parametrize("row", ROWS)
def test_averages_say_so(row: Optimizer) -> None:
    optimizer = row.build(small_cnn().parameters())
    assert row.averages == hasattr(optimizer, "eval") == hasattr(optimizer, "train")


def test_the_table_is_read_without_the_library() -> None:
    heavy = {"torch", "pytorch_optimizer"}
    code = f"import sys, bench.optimizers.table; sys.exit(len({heavy} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# ---------------------------------------------------------------- settings


def test_settings_refuse_what_they_do_not_know() -> None:
    adam = OPTIMIZERS["adam"]
    with pytest.raises(
        ValueError,
        match="optimizer adam has no setting 'momentum'; its settings "
        "are lr, betas, eps, weight_decay",
    ):
        adam.build(small_cnn().parameters(), momentum=0.9)


@pytest.mark.parametrize(
    ("name", "setting", "value"),
    [
        ("adam", "lr", "1e-3"),
        ("adam", "lr", True),
        ("adam", "lr", float("nan")),
        ("adam", "lr", None),
        ("adam", "betas", 0.9),
        ("adam", "betas", [0.9]),
        ("adam", "betas", [0.9, "0.999"]),
        ("sgd", "nesterov", "False"),
        ("sgd", "nesterov", 0),
        ("lbfgs", "history_size", 2.5),
        ("lbfgs", "history_size", float("inf")),
        ("lbfgs", "line_search_fn", None),
    ],
)
def test_settings_refuse_another_type(name: str, setting: str, value: object) -> None:
    with pytest.raises(ValueError, match=rf"{name}\.{setting} must be like ") as caught:
        OPTIMIZERS[name].settings({setting: value})
    assert ("1.0e-3" in str(caught.value)) == (isinstance(value, str))


def test_settings_take_the_type_of_their_default() -> None:
    # As JSON and YAML hand them over: the same study must give the same hash.
    settled = OPTIMIZERS["adam"].settings({"lr": 1, "betas": [0, 0.5]})
    assert settled == {"lr": 1.0, "betas": (0.0, 0.5), "eps": 1e-8, "weight_decay": 0.0}
    assert type(settled["lr"]) is float
    settled = OPTIMIZERS["lbfgs"].settings({"history_size": 5.0})
    assert type(settled["history_size"]) is int
    assert OPTIMIZERS["sgd"].settings({"nesterov": True})["nesterov"] is True


# One parameter at 2 with gradient 0.5, after one step of the defaults:
FIRST_STEP = {
    "sgd": 2 - 0.01 * 0.5,
    "adagrad": 2 - 0.01 * 0.5 / 0.25**0.5,
    "rmsprop": 2 - 0.001 * 0.5 / (0.1 * 0.25) ** 0.5,
    "adam": 2 - 0.001,
    "adamw": 2 * (1 - 0.001 * 0.01) - 0.001,
}


@pytest.mark.parametrize("name", FIRST_STEP)
def test_first_step_by_hand(name: str) -> None:
    parameter = nn.Parameter(torch.tensor([2.0], dtype=torch.float64))
    optimizer = OPTIMIZERS[name].build([parameter])
    parameter.grad = torch.tensor([0.5], dtype=torch.float64)
    optimizer.step()
    assert parameter.item() == pytest.approx(FIRST_STEP[name], abs=1e-7)


# ---------------------------------------------------------------- methods on another


@pytest.mark.parametrize("base", OPTIMIZERS["sam"].choices["base"])
def test_a_base_brings_its_own_defaults(base: str) -> None:
    own = OPTIMIZERS[base].defaults
    settings = OPTIMIZERS["sam"].settings({"base": base})
    assert {name: settings[name] for name in own} == own
    assert set(settings) == {"base", "rho", "adaptive", *own}
    assert OPTIMIZERS["sam"].settings({"base": base, "lr": 0.5}) == {**settings, "lr": 0.5}


@pytest.mark.parametrize("base", ["sgd", "rmsprop", "adam", "adamw"])
def test_where_the_gradient_is_the_same_everywhere_sam_steps_as_its_base(base: str) -> None:
    parameter = nn.Parameter(torch.tensor([2.0], dtype=torch.float64))
    optimizer = OPTIMIZERS["sam"].build([parameter], base=base)
    parameter.grad = torch.tensor([0.5], dtype=torch.float64)
    optimizer.first_step()
    parameter.grad = torch.tensor([0.5], dtype=torch.float64)
    optimizer.second_step()
    assert parameter.item() == pytest.approx(FIRST_STEP[base], abs=1e-7)


def test_a_setting_of_another_base_is_refused() -> None:
    with pytest.raises(
        ValueError, match="sam has no setting 'momentum'; its settings are base, lr"
    ):
        OPTIMIZERS["sam"].settings({"base": "adamw", "momentum": 0.9})
    assert OPTIMIZERS["sam"].settings({"base": "adamw", "betas": [0.8, 0.9]})["betas"] == (0.8, 0.9)


@pytest.mark.parametrize(
    ("graft", "theirs"),
    [
        ("sgd", lambda p: torch.optim.SGD(p, lr=1e-2, momentum=0.9)),
        ("adagrad", lambda p: torch.optim.Adagrad(p, lr=1e-2)),
        ("rmsprop", lambda p: torch.optim.RMSprop(p, lr=1e-3, alpha=0.99)),
    ],
)
def test_a_graft_brings_a_rate_at_which_steps_are_as_long_as_its_own(graft, theirs) -> None:
    """On a vector, which Shampoo leaves to its graft, and at one gradient for ever."""
    steps = []
    for make in (lambda p: OPTIMIZERS["shampoo"].build(p, graft=graft), theirs):
        parameter = nn.Parameter(torch.zeros(1, dtype=torch.float64))
        optimizer = make([parameter])
        for _ in range(400):
            before = parameter.item()
            parameter.grad = torch.full_like(parameter, 0.5)
            optimizer.step()
        steps.append(before - parameter.item())
    assert steps[0] == pytest.approx(steps[1], rel=0.05)


# ---------------------------------------------------------------- L-BFGS


def test_lbfgs_searches_along_its_direction_and_keeps_ten_steps() -> None:
    group = OPTIMIZERS["lbfgs"].build(small_cnn().parameters()).param_groups[0]
    assert group["line_search_fn"] == "strong_wolfe"
    assert group["history_size"] <= 10


def quadratic() -> tuple[nn.Parameter, Callable[[], Tensor]]:
    """Return 1/2 x'Ax with eigenvalues from 1 to 100 in a random basis; its minimum is 0."""
    generator = torch.Generator().manual_seed(0)
    basis, _ = torch.linalg.qr(torch.randn(20, 20, generator=generator))
    matrix = basis @ torch.diag(torch.logspace(0, 2, 20)) @ basis.T
    point = nn.Parameter(torch.randn(20, generator=generator))
    return point, lambda: 0.5 * point @ matrix @ point


def logistic_regression() -> tuple[nn.Parameter, Callable[[], Tensor]]:
    """Return the mean log-loss of 200 noisy cases, 20 features of scale 0.3 to 3, with ridge."""
    generator = torch.Generator().manual_seed(0)
    scale = torch.logspace(-0.5, 0.5, 20)
    x = torch.randn(200, 20, generator=generator) * scale
    truth = torch.randn(20, generator=generator) / scale
    y = (torch.rand(200, generator=generator) < torch.sigmoid(2 * x @ truth)).float()
    w = nn.Parameter(torch.zeros(20))
    return w, lambda: F.binary_cross_entropy_with_logits(x @ w, y) + 1e-3 * w.square().sum()


Problem = Callable[[], tuple[nn.Parameter, Callable[[], Tensor]]]


def minimise(problem: Problem, row: Optimizer, *, lr: float, evaluations: int) -> float:
    """Return the value that `row` reaches within so many evaluations of value and gradient."""
    point, value = problem()
    optimizer = row.build([point], lr=lr)
    calls: list[float] = []

    def evaluate() -> Tensor:
        optimizer.zero_grad()
        return value()

    closure = counted(evaluate, calls)
    while len(calls) < evaluations - 1:
        if row.step == "closure":
            # torch's line search may call once more than `max_eval` allows
            optimizer.param_groups[0]["max_eval"] = evaluations - len(calls) - 1
            optimizer.step(closure)
        else:
            closure()
            optimizer.step()
    assert len(calls) <= evaluations
    assert optimizer.state[point].get("func_evals", len(calls)) == len(calls)
    return value().item()


@pytest.mark.parametrize("problem", [quadratic, logistic_regression])
def test_lbfgs_beats_adam_on_a_small_convex_problem(problem: Problem) -> None:
    lbfgs, adam = OPTIMIZERS["lbfgs"], OPTIMIZERS["adam"]
    reached = minimise(problem, lbfgs, lr=1.0, evaluations=100)
    # Adam at the best of four rates, the last beyond its search space: it is not to lose by that.
    best = min(minimise(problem, adam, lr=lr, evaluations=100) for lr in (1e-4, 1e-3, 1e-2, 1e-1))
    assert reached < best


def test_lbfgs_counts_its_evaluations() -> None:
    point, value = quadratic()
    optimizer = OPTIMIZERS["lbfgs"].build([point])
    calls: list[float] = []
    optimizer.step(counted(value, calls))
    assert optimizer.state[point]["func_evals"] == len(calls) > 1


# ---------------------------------------------------------------- state


def test_state_bytes_counts_shared_memory_once() -> None:
    parameters = [nn.Parameter(torch.zeros(100))]
    optimizer = torch.optim.SGD(parameters, lr=0.1)
    assert state_bytes(optimizer) == 0
    buffer = torch.zeros(100)
    optimizer.state[parameters[0]] = {"a": buffer, "b": [buffer[:50], {"c": buffer}], "n": 3}
    assert state_bytes(optimizer) == 400
    optimizer.state[parameters[0]]["d"] = (torch.zeros(10, dtype=torch.float64),)
    assert state_bytes(optimizer) == 480


# ---------------------------------------------------------------- out of proportion

VGG16 = [(64, 3, 3, 3), (64,), (512, 512, 3, 3), (512,), (4096, 25088), (4096,), (4096, 4096)]
SENTENCE = (
    "optimizer {0} would repeatedly decompose a matrix of {1} x {1}; the widest allowed is 4096; "
    "a smaller {2} helps"
)
RESNET18 = [(64, 3, 7, 7), (64,), (512, 256, 3, 3), (512,), (512, 512, 3, 3), (2, 512), (2,)]


@pytest.mark.parametrize("row", ROWS)
def test_every_row_fits_a_usual_network_on_one_device(row: Optimizer) -> None:
    assert row.unfit(RESNET18, {}) is None


@pytest.mark.parametrize(
    ("name", "shapes", "given", "devices", "said"),
    [
        (
            "soap",
            VGG16,
            {"max_precondition_dim": 30000},
            1,
            SENTENCE.format("soap", 25088, "max_precondition_dim"),
        ),
        (
            "shampoo",
            VGG16,
            {"block_size": 8192},
            1,
            SENTENCE.format("shampoo", 4608, "block_size"),
        ),
        (
            "lbfgs",
            VGG16,
            {"history_size": 100},
            1,
            (
                "optimizer lbfgs would keep 98.5 GB of state for weights of 0.49 GB; "
                "a smaller history_size helps"
            ),
        ),
        ("sophia", RESNET18, {}, 2, "optimizer sophia trains a trial on one device, not on 2"),
    ],
)
def test_what_is_out_of_proportion_says_so(
    name: str, shapes: list[tuple[int, ...]], given: dict[str, object], devices: int, said: str
) -> None:
    assert OPTIMIZERS[name].unfit(shapes, given, devices=devices) == said


def test_proportion_is_of_bytes_and_of_weights_both() -> None:
    lbfgs = OPTIMIZERS["lbfgs"]
    times = 2 * 10 + 2
    limit = MOST_STATE_BYTES // 4 // times
    assert lbfgs.unfit([(limit,)], {}) is None
    assert lbfgs.unfit([(limit + 1,)], {}) is not None
    # As many bytes, but Adam's are only twice the weights.
    assert OPTIMIZERS["adam"].unfit([(limit * times,)], {}) is None
    soap = OPTIMIZERS["soap"]
    assert soap.unfit([(WIDEST, 2)], {}) is None
    assert soap.unfit([(WIDEST + 1, 2)], {}) is not None
    # Beyond max_precondition_dim a side is left as it is.
    assert soap.unfit([(10001, 2)], {}) is None


@pytest.mark.parametrize(
    ("name", "given"),
    [
        ("sgd", {"momentum": 0.0}),
        ("rmsprop", {"momentum": 0.9, "centered": True}),
        ("lbfgs", {"history_size": 3}),
        ("soap", {"max_precondition_dim": 100}),
        ("shampoo", {"graft": "sgd", "block_size": 64}),
        ("shampoo", {"graft": "adagrad", "no_preconditioning_for_layers_with_dim_gt": 100}),
        ("sam", {"base": "adam"}),
    ],
)
def test_the_claim_of_state_follows_the_settings(name: str, given: dict[str, object]) -> None:
    row, network = OPTIMIZERS[name], small_cnn()
    optimizer = row.build(network.parameters(), **given)
    step = stepper(row, network, optimizer)
    for _ in range(10):
        step(*lesions(16), 100)
    claim = row.state_numbers(shapes_of(network.parameters()), given)
    assert state_bytes(optimizer) / 4 == pytest.approx(claim, rel=0.1, abs=100)


@pytest.mark.parametrize("name", ["soap", "shampoo"])
def test_the_matrices_that_are_claimed_are_those_that_are_kept(name: str) -> None:
    row, network = OPTIMIZERS[name], small_unet()
    optimizer = row.build(network.parameters())
    stepper(row, network, optimizer)(*outlines(8), 100)
    kept = []
    for state in optimizer.state.values():
        matrices = state["GG"] if name == "soap" else state["pre_conditioner"].statistics
        kept += [len(m) for m in matrices if len(m)]
    assert sorted(kept) == sorted(row.widths(shapes_of(network.parameters()), row.settings({})))


def test_coverage_of_soap_and_shampoo_counts_what_has_matrices() -> None:
    network = small_unet()
    for name in ("soap", "shampoo"):
        row = OPTIMIZERS[name]
        optimizer = row.build(network.parameters())
        stepper(row, network, optimizer)(*outlines(8), 100)
        driven = 0
        for p, state in optimizer.state.items():
            matrices = state["GG"] if name == "soap" else state["pre_conditioner"].statistics
            driven += p.numel() * any(len(m) for m in matrices)
        whole = sum(prod(p.shape) for p in network.parameters())
        assert row.coverage(network.parameters()) == pytest.approx(driven / whole)


def test_a_text_setting_is_one_of_its_choices() -> None:
    with pytest.raises(ValueError, match=r"sam\.base: unknown base 'adma'.*Did you mean 'adam'"):
        OPTIMIZERS["sam"].settings({"base": "adma"})
    for base in OPTIMIZERS["sam"].choices["base"]:
        row = OPTIMIZERS[base]
        assert row.step == "plain"
        assert not row.averages
        assert not row.one_group
        assert row.drives == "every parameter"
