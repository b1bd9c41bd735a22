"""A residual network as small as `plain_cnn`: structure alone tells the two apart."""

from torch import Tensor, nn


class _Residual(nn.Module):
    """Two convolutions beside a shortcut, at half the size: He et al. 2016, arXiv 1512.03385."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(before, after, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(after),
            nn.ReLU(),
            nn.Conv2d(after, after, 3, padding=1, bias=False),
            nn.BatchNorm2d(after),
        )
        self.shortcut = nn.Conv2d(before, after, 1, stride=2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        shown: Tensor = nn.functional.relu(self.body(x) + self.shortcut(x))
        return shown


def small_resnet(
    in_channels: int, out_channels: int, dims: int, patch: tuple[int, ...]
) -> nn.Module:
    """Return a network of 2-D images with 16, 32 and 64 channels and a mean over what is seen."""
    if dims != 2:
        raise ValueError(f"small_resnet is for images of 2 dimensions, not {dims}")
    del patch
    return nn.Sequential(
        _Residual(in_channels, 16),
        _Residual(16, 32),
        _Residual(32, 64),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(64, out_channels),
    )
