"""Max-pooling by halves against torch's own: the same voxels, and the gradient to the same ones."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.classification import pooling
from models.classification.pooling import MaxPool

# Large enough to go by halves, then small, at an odd end, and flat along one side.
WINDOWS = {
    "images": ((16, 16, 24, 24), (2, 2)),
    "volumes": ((4, 8, 12, 24, 24), (2, 2, 2)),
    "flat": ((4, 8, 12, 24, 24), (1, 2, 2)),
    "small": ((2, 3, 4, 4), (2, 2)),
    "odd": ((16, 16, 25, 24), (2, 2)),
}
REFERENCE = {2: F.max_pool2d, 3: F.max_pool3d}


def levels(shape: tuple[int, ...]) -> Tensor:
    """Return values of few levels: most windows hold their highest one several times."""
    return torch.randint(-2, 3, shape, generator=torch.Generator().manual_seed(7)).float()


@pytest.mark.parametrize("format_", [torch.contiguous_format, "channels_last"])
@pytest.mark.parametrize("name", WINDOWS)
def test_values_and_gradient_are_those_of_torch(name: str, format_: object) -> None:
    shape, window = WINDOWS[name]
    image = levels(shape)
    if format_ == "channels_last":
        last = {4: torch.channels_last, 5: torch.channels_last_3d}[len(shape)]
        image = image.contiguous(memory_format=last)
    ours, theirs = (image.clone().requires_grad_() for _ in range(2))
    pooled, wanted = MaxPool(window)(ours), REFERENCE[len(window)](theirs, window)
    assert torch.equal(pooled, wanted)
    gradient = torch.randn(wanted.shape, generator=torch.Generator().manual_seed(8))
    pooled.backward(gradient)
    wanted.backward(gradient)
    assert ours.grad is not None
    assert theirs.grad is not None
    assert torch.equal(ours.grad, theirs.grad)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_other_types_are_pooled_alike(dtype: torch.dtype) -> None:
    image = levels(WINDOWS["images"][0]).to(dtype)
    assert torch.equal(MaxPool((2, 2))(image), F.max_pool2d(image, 2))


def test_a_gradient_has_a_gradient() -> None:
    """Second derivatives, which some optimizers take: those of the cube of what is pooled."""
    image = torch.randn(WINDOWS["images"][0], dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(MaxPool((2, 2))(image).pow(3).sum(), image, create_graph=True)
    (second,) = torch.autograd.grad(gradient.sum(), image)
    highest = F.max_pool2d(image, 2).repeat_interleave(2, 2).repeat_interleave(2, 3) == image
    assert torch.equal(gradient, torch.where(highest, 3 * image**2, 0.0))
    assert torch.equal(second, torch.where(highest, 6 * image, 0.0))


def test_large_even_images_alone_go_by_halves(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr(
        pooling,
        "_POOLS",
        {2: lambda image, window: asked.append("torch") or F.max_pool2d(image, window)},
    )
    for name in ("images", "small", "odd"):
        MaxPool(WINDOWS[name][1])(levels(WINDOWS[name][0]))
    assert asked == ["torch", "torch"]


def test_it_shows_its_window() -> None:
    assert repr(nn.Sequential(MaxPool((1, 2, 2)))).splitlines()[1].strip() == (
        "(0): MaxPool(window=(1, 2, 2))"
    )
