"""Residual networks: torchvision's in 2-D, MONAI's in 3-D."""

from typing import Any

from torch import nn

from models.stem import adapted, is_small


def resnet(
    *,
    in_channels: int,
    out_channels: int,
    dims: int,
    patch: tuple[int, ...],
    depth: int,
    dropout: float,
) -> nn.Module:
    """Return ResNet-18, 34 or 50 (`depth`): (N, in_channels, *patch) to logits (N, out_channels).

    If no side of the patch reaches `models.stem.SMALL_BELOW`, the stem is one 3-wide convolution of
    stride 1 without pooling; else it is 7 wide with stride 2, followed by pooling. Dropout precedes
    the last layer.
    """
    build = {2: _resnet_2d, 3: _resnet_3d}[dims]
    network: Any = build(in_channels, out_channels, depth, small=is_small(patch))
    # Within the pooling, so that every parameter keeps its name in pretrained weights.
    network.avgpool = nn.Sequential(network.avgpool, nn.Dropout(dropout))
    return network  # type: ignore[no-any-return]  # torchvision has no types


def _resnet_2d(in_channels: int, out_channels: int, depth: int, *, small: bool) -> Any:
    # Late, here and below: torchvision and MONAI take seconds to import, and most commands build
    # no network.
    from torchvision import models as torchvision_models

    network = getattr(torchvision_models, f"resnet{depth}")(weights=None, num_classes=out_channels)
    kernel, stride = (3, 1) if small else (7, 2)
    network.conv1 = adapted(network.conv1, in_channels, kernel=kernel, stride=stride)
    # Initialised as in torchvision.
    nn.init.kaiming_normal_(network.conv1.weight, mode="fan_out", nonlinearity="relu")
    if small:
        network.maxpool = nn.Identity()
    return network


def _resnet_3d(in_channels: int, out_channels: int, depth: int, *, small: bool) -> Any:
    from monai.networks.nets import resnet as monai_resnet

    return getattr(monai_resnet, f"resnet{depth}")(
        spatial_dims=3,
        n_input_channels=in_channels,
        num_classes=out_channels,
        conv1_t_size=3 if small else 7,
        conv1_t_stride=1 if small else 2,
        no_max_pool=small,
    )
