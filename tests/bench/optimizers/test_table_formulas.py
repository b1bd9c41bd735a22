"""The first steps of optimizers against their papers' equations, written out here once more."""

from collections.abc import Callable, Sequence
from math import prod, sqrt

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from bench.optimizers.own.kron import noise
from bench.optimizers.table import OPTIMIZERS

Array = NDArray[np.float64]
Settings = dict[str, object]
STEPS = 8


def sgd_nesterov(x: Array, gradients: Sequence[Array], s: Settings) -> Array:
    buffer = np.zeros_like(x)
    for gradient in gradients:
        g = gradient + s["weight_decay"] * x
        buffer = s["momentum"] * buffer + g
        x = x - s["lr"] * (g + s["momentum"] * buffer)
    return x


def nadam(x: Array, gradients: Sequence[Array], s: Settings) -> Array:
    (b1, b2), m, v, product = s["betas"], 0 * x, 0 * x, 1.0
    for t, g in enumerate(gradients, 1):
        mu, following = (b1 * (1 - 0.5 * 0.96 ** (k * s["momentum_decay"])) for k in (t, t + 1))
        product *= mu
        m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g * g
        nesterov = following * m / (1 - product * following) + (1 - mu) * g / (1 - product)
        x = x - s["lr"] * nesterov / (np.sqrt(v / (1 - b2**t)) + s["eps"])
    return x


def radam(x: Array, gradients: Sequence[Array], s: Settings) -> Array:
    (b1, b2), m, v = s["betas"], 0 * x, 0 * x
    longest = 2 / (1 - b2) - 1
    for t, g in enumerate(gradients, 1):
        m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g * g
        length = longest - 2 * t * b2**t / (1 - b2**t)
        update = m / (1 - b1**t)
        if length > 5:
            rectify = (length - 4) * (length - 2) * longest
            rectify /= (longest - 4) * (longest - 2) * length
            update = sqrt(rectify) * update * sqrt(1 - b2**t) / (np.sqrt(v) + s["eps"])
        x = x - s["lr"] * update
    return x


def adafactor(x: Array, gradients: Sequence[Array], s: Settings) -> Array:
    v = 0 * x
    for t, g in enumerate(gradients, 1):
        beta = 1 - t ** s["beta2_decay"]
        v = beta * v + (1 - beta) * g * g
        u = g / np.sqrt(v)
        u = u / max(1.0, float(np.sqrt(np.mean(u * u))) / s["d"])
        rate = max(1e-3, float(np.sqrt(np.mean(x * x)))) * min(s["lr"], 1 / sqrt(t))
        x = x - rate * u
    return x


def lion(x: Array, gradients: Sequence[Array], s: Settings) -> Array:
    (b1, b2), m = s["betas"], 0 * x
    for g in gradients:
        x = x - s["lr"] * (np.sign(b1 * m + (1 - b1) * g) + s["weight_decay"] * x)
        m = b2 * m + (1 - b2) * g
    return x


def lamb(x: Array, gradients: Sequence[Array], s: Settings) -> Array:
    (b1, b2), m, v = s["betas"], 0 * x, 0 * x
    for g in gradients:
        m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g * g
        update = m / (np.sqrt(v) + s["eps"]) + s["weight_decay"] * x
        x = x - s["lr"] * update * min(np.linalg.norm(x), 10) / np.linalg.norm(update)
    return x


def adan(x: Array, gradients: Sequence[Array], s: Settings) -> Array:
    (b1, b2, b3), m, v, n, last = s["betas"], 0 * x, 0 * x, 0 * x, gradients[0]
    for t, g in enumerate(gradients, 1):
        change, last = g - last, g
        m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * change
        n = b3 * n + (1 - b3) * (g + b2 * change) ** 2
        step = m / (1 - b1**t) + b2 * v / (1 - b2**t)
        x = x - s["lr"] * step / (np.sqrt(n / (1 - b3**t)) + s["eps"])
        x = x / (1 + s["lr"] * s["weight_decay"])
    return x


def ademamix(x: Array, gradients: Sequence[Array], s: Settings) -> Array:
    (b1, b2, b3), m, slow, v = s["betas"], 0 * x, 0 * x, 0 * x
    for t, g in enumerate(gradients, 1):
        m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g * g
        slow = b3 * slow + (1 - b3) * g
        update = m / (1 - b1**t) + s["alpha"] * slow
        update = update / (np.sqrt(v / (1 - b2**t)) + s["eps"])
        x = x - s["lr"] * (update + s["weight_decay"] * x)
    return x


def prodigy(x: Array, gradients: Sequence[Array], s: Settings) -> Array:
    (b1, b2), m, v, r, total = s["betas"], 0 * x, 0 * x, 0.0, 0 * x
    start, d = x, s["d0"]
    for t, g in enumerate(gradients, 1):
        rate = s["lr"] * sqrt(1 - b2**t) / (1 - b1**t)
        r = sqrt(b2) * r + d * d * rate * float(g @ (start - x))
        total = sqrt(b2) * total + d * d * rate * g
        m, v = b1 * m + (1 - b1) * d * g, b2 * v + (1 - b2) * d * d * g * g
        found = max(d, s["d_coef"] * r / float(np.abs(total).sum()))
        x = x - rate * d * m / (np.sqrt(v) + found * s["eps"])
        d = found
    return x


def adopt(x: Array, gradients: Sequence[Array], s: Settings) -> Array:
    (b1, b2), m, v = s["betas"], 0 * x, gradients[0] ** 2
    for t, g in enumerate(gradients[1:], 2):
        normed = np.clip(g / np.maximum(np.sqrt(v), s["eps"]), -(t**0.25), t**0.25)
        m = b1 * m + (1 - b1) * normed
        x = x - s["lr"] * m
        v = b2 * v + (1 - b2) * g * g
    return x


def schedule_free(x: Array, gradients: Sequence[Array], beta: float, directions: object) -> Array:
    """Return y, where the next gradient is taken: the average and the fast weights, mixed."""
    z = average = x
    for t, step in enumerate(directions(gradients), 1):
        z = z - step
        average = average + (z - average) / t
    return (1 - beta) * z + beta * average


def schedule_free_sgd(x: Array, gradients: Sequence[Array], s: Settings) -> Array:
    return schedule_free(x, gradients, s["momentum"], lambda gs: [s["lr"] * g for g in gs])


def schedule_free_adamw(x: Array, gradients: Sequence[Array], s: Settings) -> Array:
    def directions(gs: Sequence[Array]) -> list[Array]:
        b2, v, found = s["betas"][1], 0 * x, []
        for t, g in enumerate(gs, 1):
            v = b2 * v + (1 - b2) * g * g
            found.append(s["lr"] * g / (np.sqrt(v / (1 - b2**t)) + s["eps"]))
        return found

    return schedule_free(x, gradients, s["betas"][0], directions)


def root(matrix: Array, power: float) -> Array:
    values, vectors = np.linalg.eigh(matrix)
    return (vectors * values**power) @ vectors.T


def soap(x: Array, gradients: Sequence[Array], s: Settings) -> Array:
    """Give SOAP with its bases kept at those of the first gradient: for less than ten steps."""
    b1, b2 = s["betas"]
    first, *later = gradients  # makes the bases alone
    left = np.linalg.eigh(first @ first.T)[1]
    right = np.linalg.eigh(first.T @ first)[1]
    m, v = 0 * x, 0 * x
    for t, g in enumerate(later, 1):
        m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * (left.T @ g @ right) ** 2
        turned = left.T @ m @ right / (np.sqrt(v) + s["eps"])
        x = x - s["lr"] * sqrt(1 - b2**t) / (1 - b1**t) * (left @ turned @ right.T)
        x = x * (1 - s["lr"] * s["weight_decay"])
    return x


def shampoo(x: Array, gradients: Sequence[Array], s: Settings) -> Array:
    """Give Shampoo on a matrix with both sides in one block, roots at every step."""
    b1, b2 = s["betas"]
    left, right = (s["matrix_eps"] * np.eye(n) for n in x.shape)
    squares, m = 0 * x, 0 * x
    for g in gradients:
        left, right = (b2 * a + (1 - b2) * b for a, b in ((left, g @ g.T), (right, g.T @ g)))
        squares = b2 * squares + (1 - b2) * g * g
        update = root(left, -0.25) @ g @ root(right, -0.25)
        update = update * np.linalg.norm(g / np.sqrt(squares)) / np.linalg.norm(update)
        m = b1 * m + (1 - b1) * update
        x = x - s["lr"] * (b1 * m + (1 - b1) * update)
    return x


def mars(x: Array, gradients: Sequence[Array], s: Settings) -> Array:
    (b1, b2), m, v, last = s["betas"], 0 * x, 0 * x, 0 * x
    for t, g in enumerate(gradients, 1):
        c, last = g + s["gamma"] * b1 / (1 - b1) * (g - last), g
        c = c / max(1.0, float(np.linalg.norm(c)))
        m, v = b1 * m + (1 - b1) * c, b2 * v + (1 - b2) * c * c
        update = m / (1 - b1**t) / (np.sqrt(v / (1 - b2**t)) + s["eps"])
        x = x - s["lr"] * (update + s["weight_decay"] * x)
    return x


def mars_on_a_vector(x: Array, gradients: Sequence[Array], s: Settings) -> Array:
    (b1, b2), m, v = s["betas_1d"], 0 * x, 0 * x
    for t, g in enumerate(gradients, 1):
        m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g * g
        update = m / (1 - b1**t) / (np.sqrt(v / (1 - b2**t)) + s["eps"])
        x = x - s["lr"] * (update + s["weight_decay"] * x)
    return x


def lars(x: Array, gradients: Sequence[Array], s: Settings) -> Array:
    m, decay = 0 * x, s["weight_decay"]
    for g in gradients:
        size = np.linalg.norm(x)
        local = s["trust_coefficient"] * size / (np.linalg.norm(g) + decay * size)
        m = s["momentum"] * m + s["lr"] * local * (g + decay * x)
        x = x - m
    return x


def cautious_adamw(x: Array, gradients: Sequence[Array], s: Settings) -> Array:
    (b1, b2), m, v = s["betas"], 0 * x, 0 * x
    masked = 0
    for t, g in enumerate(gradients, 1):
        m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g * g
        update = m / (1 - b1**t) / (np.sqrt(v / (1 - b2**t)) + s["eps"])
        mask = (update * g > 0) * 1.0
        masked += int((mask == 0).sum())
        x = x * (1 - s["lr"] * s["weight_decay"]) - s["lr"] * update * mask / mask.mean()
    assert masked
    return x


Formula = Callable[[Array, Sequence[Array], Settings], Array]
FORMULAS: list[tuple[str, Formula, tuple[int, ...], Settings]] = [
    ("sgd_nesterov", sgd_nesterov, (5,), {}),
    ("nadam", nadam, (5,), {}),
    ("radam", radam, (5,), {}),
    ("adafactor", adafactor, (5,), {}),
    ("lion", lion, (5,), {}),
    ("lamb", lamb, (5,), {}),
    ("adan", adan, (5,), {}),
    ("ademamix", ademamix, (5,), {}),
    ("prodigy", prodigy, (5,), {"d0": 1e-2}),
    ("adopt", adopt, (5,), {}),
    ("schedule_free_sgd", schedule_free_sgd, (5,), {}),
    ("schedule_free_adamw", schedule_free_adamw, (5,), {}),
    ("soap", soap, (3, 4), {}),
    ("mars", mars, (3, 4), {}),
    ("mars", mars_on_a_vector, (5,), {}),
    ("lars", lars, (3, 4), {"weight_decay": 0.1}),
    ("cautious_adamw", cautious_adamw, (3, 4), {}),
    ("shampoo", shampoo, (3, 4), {"block_size": 4, "precondition_frequency": 1}),
]


@pytest.mark.parametrize(
    ("name", "formula", "shape", "given"), FORMULAS, ids=[f[1].__name__ for f in FORMULAS]
)
def test_eight_steps_are_those_of_the_paper(
    name: str, formula: Formula, shape: tuple[int, ...], given: Settings
) -> None:
    rng = np.random.default_rng(0)
    start = rng.normal(size=shape)
    gradients = rng.normal(size=(STEPS, *shape))
    parameter = nn.Parameter(torch.from_numpy(start.copy()))
    row = OPTIMIZERS[name]
    optimizer = row.build([parameter], **given)
    for gradient in gradients:
        parameter.grad = torch.from_numpy(gradient.copy())
        optimizer.step()
    expected = formula(start, list(gradients), row.settings(given))
    assert np.abs(expected - start).max() > 1e-4
    np.testing.assert_allclose(parameter.detach().numpy() - start, expected - start, rtol=1e-4)


# ---------------------------------------------------------------- PSGD-Kron


@pytest.mark.parametrize(
    ("shape", "steps", "given"),
    [
        ((3, 4), 8, {}),
        ((3, 4), 8, {"max_size_triangular": 3, "weight_decay": 0.1}),
        ((3, 2, 1, 3), 8, {"weight_decay": 0.1}),
        ((5,), 8, {"weight_decay": 0.1}),
        # Past the first 500 the factors follow ever more seldom.
        ((2, 2), 1200, {"lr": 1e-2}),
    ],
)
def test_kron_steps_as_the_library_does_with_the_same_noise(
    monkeypatch: pytest.MonkeyPatch,
    shape: tuple[int, ...],
    steps: int,
    given: Settings,
) -> None:
    from pytorch_optimizer import Kron as Library

    rng = np.random.default_rng(0)
    start = torch.from_numpy(rng.normal(size=shape))
    ours, theirs = nn.Parameter(start.clone()), nn.Parameter(start.clone())
    optimizer = OPTIMIZERS["psgd_kron"].build([ours], **given)
    settings = OPTIMIZERS["psgd_kron"].settings(given)
    library = Library([theirs], precondition_dtype=None, balance_prob=0.0, **settings)
    now, draws = [0], [0]

    def drawn(like: torch.Tensor, **_: object) -> torch.Tensor:
        draws[0] += 1
        return noise(like, now[0], 1)

    monkeypatch.setattr(torch, "randn_like", drawn)
    for k in range(steps):
        gradient = torch.from_numpy(rng.normal(size=shape) + 0.5)
        ours.grad, theirs.grad = gradient.clone(), gradient.clone()
        now[0] = k + 1
        optimizer.step()
        library.step()
    assert (draws[0] == steps) == (steps <= 501)
    moved = ours.detach() - start
    assert float(moved.abs().max()) > 1e-3
    torch.testing.assert_close(moved, theirs.detach() - start, rtol=1e-4, atol=1e-7)


def test_the_factors_of_kron_whiten_the_gradient() -> None:
    """Gradients of variances 1 and 100 on two rows: the step's become alike."""
    rng = np.random.default_rng(0)
    parameter = nn.Parameter(torch.zeros(2, 3, dtype=torch.float64))
    optimizer = OPTIMIZERS["psgd_kron"].build([parameter], momentum=0.0, lr=1.0)
    moves = []
    for _ in range(400):
        before = parameter.detach().clone()
        parameter.grad = torch.from_numpy(rng.normal(size=(2, 3)) * np.array([[1.0], [10.0]]))
        optimizer.step()
        moves.append((parameter.detach() - before).square().mean(1))
    first, last = moves[0], torch.stack(moves[-200:]).mean(0)
    assert float(first[1] / first[0]) > 20
    assert float(last[1] / last[0]) == pytest.approx(1, abs=0.5)


# ---------------------------------------------------------------- Muon


def network(memory: torch.memory_format = torch.contiguous_format) -> nn.Module:
    torch.manual_seed(0)
    made = nn.Sequential(
        nn.Conv2d(1, 6, 3), nn.Conv2d(6, 4, 3), nn.ConvTranspose2d(4, 3, 2), nn.Conv2d(3, 2, 1)
    )
    return made.to(memory_format=memory)


def with_gradients(made: nn.Module) -> nn.Module:
    generator = torch.Generator().manual_seed(1)
    for p in made.parameters():
        gradient = torch.randn(p.shape, generator=generator)
        p.grad = torch.empty_like(p).copy_(gradient)  # in the layout of the weight
    return made


def test_muon_drives_hidden_convolutions_as_the_library_does_and_the_rest_as_adamw() -> None:
    from pytorch_optimizer import Muon

    row = OPTIMIZERS["muon"]
    settings = row.settings({})
    ours, theirs = network(), network()
    optimizer = row.build(ours.parameters())
    hidden = [theirs[1].weight, theirs[2].weight]
    others = [p for p in theirs.parameters() if all(p is not h for h in hidden)]
    library = Muon(
        [
            {"params": hidden, "use_muon": True},
            {"params": [nn.Parameter(torch.zeros(1))], "use_muon": False},
        ],
        lr=settings["lr"],
        weight_decay=settings["weight_decay"],
        use_adjusted_lr=True,
    )
    adamw = torch.optim.AdamW(others, lr=settings["lr"], weight_decay=settings["weight_decay"])
    start = [p.detach().clone() for p in ours.parameters()]
    for _ in range(3):
        with_gradients(ours)
        optimizer.step()
        with_gradients(theirs)
        library.step()
        adamw.step()
    for p, q, s in zip(ours.parameters(), theirs.parameters(), start, strict=True):
        # Newton-Schulz runs in bfloat16 here, with 8 bits of precision.
        torch.testing.assert_close(p - s, q - s, rtol=0.05, atol=2e-5)
        assert not torch.equal(p, s)


def test_muon_does_the_same_to_weights_in_channels_last() -> None:
    row = OPTIMIZERS["muon"]
    ends = []
    for memory in (torch.contiguous_format, torch.channels_last):
        made = network(memory)
        optimizer = row.build(made.parameters(), lr=0.1)
        for _ in range(3):
            with_gradients(made)
            optimizer.step()
        ends.append([p.detach().contiguous() for p in made.parameters()])
    assert network(torch.channels_last)[1].weight.stride() != network()[1].weight.stride()
    for a, b in zip(*ends, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=2e-2)  # steps of 0.1 in bfloat16


def test_muon_makes_the_step_of_a_hidden_weight_orthogonal() -> None:
    made = network()
    optimizer = OPTIMIZERS["muon"].build(made.parameters(), lr=1.0, weight_decay=0.0)
    weight = made[1].weight
    before = weight.detach().clone()
    with_gradients(made)
    optimizer.step()
    step = (before - weight.detach()).flatten(1)
    assert step.shape == (4, 54)
    # Jordan et al. 2024: five steps bring every singular value to between 0.5 and 1.5.
    size = 0.2 * sqrt(max(step.shape))
    values = torch.linalg.svdvals(step) / size
    assert float(values.min()) > 0.5
    assert float(values.max()) < 1.5


def test_muon_says_how_much_it_drives() -> None:
    row = OPTIMIZERS["muon"]
    made = network()
    hidden = prod(made[1].weight.shape) + prod(made[2].weight.shape)
    whole = sum(p.numel() for p in made.parameters())
    assert row.coverage(made.parameters()) == pytest.approx(hidden / whole)
    optimizer = row.build(made.parameters())
    driven = [p for g in optimizer.param_groups if g["muon"] for p in g["params"]]
    assert sum(p.numel() for p in driven) == hidden
    assert {id(p) for g in optimizer.param_groups for p in g["params"]} == {
        id(p) for p in made.parameters()
    }
