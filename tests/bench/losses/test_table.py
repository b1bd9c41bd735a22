"""What every row of the table of losses keeps to, rows added later included."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from bench.core.references import StudyError
from bench.losses.reductions import wide
from bench.losses.table import LOSSES, Loss, Total, alone
from bench.study.components import loss_row

# Rows that are in no table: the contract below needs no edit to meet them.
NEWCOMER = replace(
    LOSSES["ce"],
    name="newcomer",
    function=lambda logits, target, *_: (
        -wide(logits).softmax(1).gather(1, target[:, None]).flatten(1).mean(1)
    ),
    defaults={},
)


def squared_total(
    logits: Tensor, target: Tensor, class_weights: Tensor | None, total: Total, *, power: float
) -> Tensor:
    """Couple a batch: the squared error of all voxels of the batch, to a power."""
    del class_weights
    p = torch.softmax(wide(logits), 1)
    error = (p - F.one_hot(target, p.shape[1]).movedim(-1, 1)) ** 2
    count = error.new_full((), error.numel())
    share, number = total(torch.stack([error.sum(), count]))
    value: Tensor = (share / number) ** power
    return value.expand(len(logits))


COUPLED = replace(
    LOSSES["dice_batch"], name="coupled", function=squared_total, defaults={"power": 2.0}
)

ROWS = [*LOSSES.values(), NEWCOMER, COUPLED]
# What is scored at once: the sides of masks, () for one class an image, FINDINGS or NUMBERS.
Spatial = tuple[int, ...] | str
FINDINGS, NUMBERS = "findings", "numbers"
SPATIAL: dict[str, list[Spatial]] = {
    "classification": [()],
    "segmentation": [(5, 4), (3, 2, 4)],
    "multilabel": [FINDINGS],
    "regression": [NUMBERS],
    "ordinal": [()],
}
USES = [
    pytest.param(row, at, id=f"{row.name}-{at if isinstance(at, str) else f'{len(at)}d'}")
    for row in ROWS
    for at in dict.fromkeys(at for task in row.tasks for at in SPATIAL[task])
]
every_use = pytest.mark.parametrize(("row", "spatial"), USES)


def draw(spatial: Spatial, *, n: int = 6, classes: int = 3, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    if isinstance(spatial, str):
        logits = torch.randn(n, classes, generator=generator, dtype=torch.float64)
        if spatial == NUMBERS:
            return logits, torch.randn(n, classes, generator=generator, dtype=torch.float64)
        target = torch.randint(2, (n, classes), generator=generator).double()
        target[1, 0] = target[-1, 1:] = torch.nan  # what is not known
        return logits, target
    logits = torch.randn(n, classes, *spatial, generator=generator, dtype=torch.float64)
    target = torch.randint(classes, (n, *spatial), generator=generator)
    return logits, target


def truth_of(target: Tensor, spatial: Spatial) -> Tensor:
    """Return what logits that say the answer are proportional to: 4 times it says it."""
    if spatial == NUMBERS:
        return target / 4
    if isinstance(spatial, str):
        return 2 * target.nan_to_num(nan=0.5) - 1
    return F.one_hot(target, 3).movedim(-1, 1).double()


def one_answer(
    spatial: Spatial, label: int, ahead: int, confidence: float
) -> tuple[Tensor, Tensor]:
    """Return two samples of one answer throughout, and sure logits: right, or wrong if `ahead`."""
    if spatial == NUMBERS:
        return torch.full((2, 3), label + ahead * confidence), torch.full((2, 3), float(label))
    if isinstance(spatial, str):
        target = torch.full((2, 3), float(label > 0))
        return confidence * (-1) ** ahead * (2 * target - 1), target
    target = torch.full((2, *spatial), label)
    logits = torch.zeros(2, 3, *spatial)
    logits[:, (label + ahead) % 3] = confidence
    return logits, target


def weights(row: Loss, classes: int = 3) -> Tensor | None:
    return torch.linspace(0.5, 2.0, classes) if row.weighted else None


def values(row: Loss, logits: Tensor, target: Tensor, **settings: object) -> Tensor:
    return row.bind(settings)(logits, target, weights(row, logits.shape[1]), alone)


def test_every_row_is_filed_under_its_name() -> None:
    assert all(name == row.name for name, row in LOSSES.items())
    assert len(LOSSES) >= 20
    for row in LOSSES.values():
        assert row.formula
        assert row.summary
        assert row.source
        assert set(row.tasks) <= set(SPATIAL)
        assert all(name in row.formula for name in row.defaults)


@every_use
def test_a_batch_costs_the_same_however_it_is_split(row: Loss, spatial: Spatial) -> None:
    logits, target = draw(spatial)
    whole = values(row, logits, target)
    assert whole.shape == (6,)
    for cuts in ([3, 3], [1, 5], [2, 1, 3]):
        shares = list(zip(torch.split(logits, cuts), torch.split(target, cuts), strict=True))
        given = [summands(row, *share) for share in shares]
        sums = [torch.stack(each).sum(0) for each in zip(*given, strict=True)]
        parts = [row.bind({})(*share, weights(row), answer(sums)) for share in shares]
        torch.testing.assert_close(torch.cat(parts), whole, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("row", "spatial"), [use for use in USES if use.values[0].derive])
def test_what_a_loader_makes_of_the_target_is_what_the_loss_makes(
    row: Loss, spatial: Spatial
) -> None:
    logits, target = draw(spatial)
    made = row.derive(target.to(torch.uint8), classes=logits.shape[1])
    assert len(made) == len(target)
    given = row.bind({})(logits, target, weights(row), alone, derived=made)
    assert torch.equal(given, values(row, logits, target))
    # ... and it is used.
    assert not torch.equal(
        row.bind({})(logits, target, weights(row), alone, derived=made + 1), given
    )


def summands(row: Loss, logits: Tensor, target: Tensor) -> list[Tensor]:
    """Return what one process hands to `total`, call by call."""
    given: list[Tensor] = []

    def total(value: Tensor) -> Tensor:
        given.append(value)
        return value

    row.bind({})(logits, target, weights(row), total)
    return given


def answer(sums: list[Tensor]) -> Total:
    """Return a `total` that gives these, call by call."""
    left = iter(sums)
    return lambda _: next(left)


@every_use
def test_gradient(row: Loss, spatial: Spatial) -> None:
    logits, target = draw(spatial, n=2)
    # Of a loss of distances along one line: each evaluation measures them again.
    assert torch.autograd.gradcheck(
        lambda x: values(row, x, target), logits.requires_grad_(), fast_mode=row.spaced
    )


@every_use
def test_curvature(row: Loss, spatial: Spatial) -> None:
    # An optimizer may differentiate the gradient again: along a line, against finite differences.
    logits, target = draw(spatial, n=2)
    line = torch.randn(logits.shape, generator=torch.Generator().manual_seed(1)).double()

    def gradient(x: Tensor, *, again: bool = False) -> Tensor:
        x.requires_grad_()
        (slope,) = torch.autograd.grad(values(row, x, target).sum(), x, create_graph=again)
        return slope

    (curve,) = torch.autograd.grad((gradient(logits, again=True) * line).sum(), logits)
    step = 1e-6
    ahead, behind = (gradient((logits + sign * step * line).detach()) for sign in (1, -1))
    torch.testing.assert_close(curve, (ahead - behind) / (2 * step), rtol=1e-5, atol=1e-8)


@every_use
def test_the_truth_costs_least(row: Loss, spatial: Spatial) -> None:
    logits, target = draw(spatial)
    truth = truth_of(target, spatial)
    right, unsure, wrong, drawn = (
        values(row, x, target) for x in (4 * truth, 0 * truth, -4 * truth, logits)
    )
    assert (right < unsure).all()
    assert (unsure < wrong).all()
    assert (right < drawn).all()


@pytest.mark.parametrize("ahead", [0, 1], ids=["right", "wrong"])
@pytest.mark.parametrize("confidence", [0.0, 1e4])
@pytest.mark.parametrize("label", [0, 2])
@every_use
def test_finite_where_classes_are_absent(
    row: Loss, spatial: Spatial, label: int, confidence: float, ahead: int
) -> None:
    # One class fills each sample, so the others' masks are empty; predictions are sure.
    logits, target = one_answer(spatial, label, ahead, confidence)
    logits.requires_grad_()
    costs = values(row, logits, target)
    assert costs.isfinite().all()
    (slope,) = torch.autograd.grad(costs.sum(), logits, create_graph=True)
    assert slope.isfinite().all()
    (curve,) = torch.autograd.grad(slope.sum(), logits, allow_unused=True)
    assert curve is None or curve.isfinite().all()


@every_use
def test_a_share_without_samples(row: Loss, spatial: Spatial) -> None:
    # A global batch smaller than the number of processes leaves some of them without work.
    logits, target = draw(spatial)
    none = logits[:0].requires_grad_()
    costs = values(row, none, target[:0])
    assert costs.shape == (0,)
    costs.sum().backward()  # type: ignore[no-untyped-call]  # torch's stub lacks it


@pytest.mark.parametrize("size", [1, 2])
@every_use
def test_levels_of_few_voxels(row: Loss, spatial: Spatial, size: int) -> None:
    # Deep supervision goes down to them.
    sides = spatial if isinstance(spatial, str) else (size,) * len(spatial)
    logits, target = draw(sides)
    (slope,) = torch.autograd.grad(values(row, logits.requires_grad_(), target).sum(), logits)
    assert slope.isfinite().all()
    assert slope.abs().max() > 0


@every_use
def test_float32_agrees_with_float64(row: Loss, spatial: Spatial) -> None:
    logits, target = draw(spatial)
    single, double = values(row, logits.float(), target), values(row, logits, target)
    assert (single.dtype, double.dtype) == (torch.float32, torch.float64)
    torch.testing.assert_close(single.double(), double, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])
@every_use
def test_half_precision_is_widened_first(row: Loss, spatial: Spatial, half: torch.dtype) -> None:
    logits, target = draw(spatial)
    narrow = logits.to(half)
    with torch.autocast("cpu", dtype=half):
        costs = values(row, narrow, target)
    assert costs.dtype == torch.float32
    torch.testing.assert_close(costs, values(row, narrow.float(), target), rtol=0, atol=0)


@every_use
def test_the_order_in_memory_is_no_matter(row: Loss, spatial: Spatial) -> None:
    logits, target = draw(spatial)
    last = logits.movedim(1, -1).contiguous().movedim(-1, 1)
    torch.testing.assert_close(
        values(row, last, target), values(row, logits, target), rtol=1e-12, atol=1e-12
    )


@pytest.mark.parametrize(
    ("row", "name"),
    [pytest.param(r, name, id=f"{r.name}-{name}") for r in ROWS for name in r.defaults],
)
def test_every_setting_counts(row: Loss, name: str) -> None:
    default = row.defaults[name]
    assert isinstance(default, int | float)
    other: float = 0.7 if default < 0.1 else default / 2
    if isinstance(default, int):
        other = not default if isinstance(default, bool) else 1
    logits, target = draw(SPATIAL[row.tasks[-1]][0])
    spaced = {"spacing": (3.0, 1.0)} if row.spaced else {}

    def late(x: Tensor, given: dict[str, float]) -> Tensor:
        settings = row.at(row.settings(given), 2)
        return row.bind(settings)(x, target, weights(row, x.shape[1]), alone, **spaced)

    # Of the larger ones some lie farther apart than any margin.
    assert not all(
        torch.allclose(late(x, {}), late(x, {name: other}), rtol=1e-3) for x in (logits, 8 * logits)
    )


@pytest.mark.parametrize(
    ("name", "given", "why"),
    [
        ("ce", {"gamma": 2.0}, r"loss ce has no setting 'gamma'; its settings are label_smoothing"),
        ("lovasz", {"smooth": 1.0}, r"loss lovasz has no setting 'smooth'; it has none"),
        ("focal", {"gamma": "2"}, r"loss setting focal.gamma must be like 2.0, not '2'"),
        (
            "topk_ce",
            {"share": 10},
            r"loss setting topk_ce.share must lie between 0 and 1, not 10.0",
        ),
        ("dice", {"smooth": 0}, r"loss setting dice.smooth must lie between 1e-12 and inf, not 0"),
    ],
)
def test_settings_that_cannot_be(name: str, given: dict[str, object], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        LOSSES[name].bind(given)


@pytest.mark.parametrize("row", [r for r in ROWS if r.weighted], ids=lambda r: r.name)
def test_weights_must_be_there_where_they_count(row: Loss) -> None:
    logits, target = draw(SPATIAL[row.tasks[0]][0])
    with pytest.raises(ValueError, match="needs class weights"):
        row.bind({})(logits, target, None, alone)


OWN = """
def cost(logits, target, gamma):
    assert logits.dtype.itemsize >= 4
    return -gamma * logits.mean()
"""


def test_a_loss_of_the_users_own(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(OWN)
    row = loss_row("own.py:cost", {"gamma": -1.0}, tmp_path).row
    logits, target = draw((6, 5))
    costs = row.bind({"gamma": -2.0})(logits.half(), target, None, alone)
    assert costs.shape == (6,)
    torch.testing.assert_close(costs.mean().double(), 2 * logits.half().double().mean())
    with pytest.raises(ValueError, match=r"has no setting 'beta'; its settings are gamma"):
        row.bind({"beta": 1.0})


@pytest.mark.parametrize("given", [{"share": 2.0}, {"gamma": 2.0}])
def test_a_study_says_what_a_loss_cannot_be(given: dict[str, float], tmp_path: Path) -> None:
    with pytest.raises(StudyError, match=r"^losses: loss"):
        loss_row("topk_ce", given, tmp_path)


@pytest.mark.gpu
@pytest.mark.parametrize("half", [None, torch.bfloat16, torch.float16])
@every_use
def test_a_gpu_gives_the_same(row: Loss, spatial: Spatial, half: torch.dtype | None) -> None:
    logits, target = draw(spatial)
    logits = logits.to(half or torch.float32).requires_grad_()
    far = logits.detach().cuda().requires_grad_()
    class_weights = weights(row)
    ours = row.bind({})(logits, target, class_weights, alone)
    if class_weights is not None:
        class_weights = class_weights.cuda()
    with torch.autocast("cuda", dtype=half or torch.float16, enabled=half is not None):
        theirs = row.bind({})(far, target.cuda(), class_weights, alone)
    torch.testing.assert_close(theirs.cpu(), ours, rtol=1e-4, atol=1e-5)
    (near_slope,) = torch.autograd.grad(ours.sum(), logits)
    (far_slope,) = torch.autograd.grad(theirs.sum(), far)
    relative, absolute = (1e-4, 1e-5) if half is None else (1e-2, 1e-4)
    torch.testing.assert_close(far_slope.cpu(), near_slope, rtol=relative, atol=absolute)


def test_the_table_is_light_to_import() -> None:
    heavy = {"monai", "torchvision", "torch"}
    code = f"import sys, bench.losses.table; print(*{heavy} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
