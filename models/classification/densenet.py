"""Densely connected networks: torchvision's in 2-D, MONAI's in 3-D."""

from typing import Any

from torch import nn

from models.stem import is_small

# The published stem and the three poolings after it bring 29 pixels down to one (torchvision says
# min_size 29).
LEAST = 29


def densenet121(
    *, in_channels: int, out_channels: int, dims: int, patch: tuple[int, ...], dropout: float
) -> nn.Module:
    """Return DenseNet-121 from (N, in_channels, *patch) to logits (N, out_channels).

    If no side of the patch reaches `models.stem.SMALL_BELOW`, or one is below `LEAST`, the stem is
    one 3-wide convolution of stride 1 without pooling (Huang et al. 2017, section 3, CIFAR); else
    it is 7 wide with stride 2, followed by pooling. Dropout follows every convolution of the dense
    blocks.
    """
    build = {2: _densenet121_2d, 3: _densenet121_3d}[dims]
    network = build(in_channels, out_channels, dropout)
    small = is_small(patch, least=LEAST)
    kernel, stride = (3, 1) if small else (7, 2)
    stem = {2: nn.Conv2d, 3: nn.Conv3d}[dims](
        in_channels, 64, kernel, stride, padding=kernel // 2, bias=False
    )
    # Initialised as in both libraries.
    nn.init.kaiming_normal_(stem.weight)
    network.features.conv0 = stem
    if small:
        network.features.pool0 = nn.Identity()
    return network  # type: ignore[no-any-return]  # torchvision has no types


def _densenet121_2d(in_channels: int, out_channels: int, dropout: float) -> Any:
    del in_channels  # torchvision's stem takes three; it is replaced
    # Late, here and below: torchvision and MONAI take seconds to import, and most commands build
    # no network.
    from torchvision.models import densenet121 as torchvision_densenet121

    return torchvision_densenet121(weights=None, num_classes=out_channels, drop_rate=dropout)


def _densenet121_3d(in_channels: int, out_channels: int, dropout: float) -> Any:
    from monai.networks.nets.densenet import DenseNet121

    return DenseNet121(
        spatial_dims=3, in_channels=in_channels, out_channels=out_channels, dropout_prob=dropout
    )
