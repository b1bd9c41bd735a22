"""Networks of inverted residuals, by torchvision, in 2-D."""

from typing import Any

from torch import nn

from models.stem import adapted, is_small, keep_resolution


def mobilenet_v3(
    *,
    in_channels: int,
    out_channels: int,
    dims: int,
    patch: tuple[int, ...],
    size: str,
    dropout: float,
) -> nn.Module:
    """Return MobileNet-V3 "small" or "large": (N, in_channels, *patch) to (N, out_channels)."""
    del dims
    return _inverted(f"mobilenet_v3_{size}", in_channels, out_channels, patch, dropout)


def efficientnet_b0(
    *, in_channels: int, out_channels: int, dims: int, patch: tuple[int, ...], dropout: float
) -> nn.Module:
    """Return EfficientNet-B0: (N, in_channels, *patch) to (N, out_channels).

    Its stochastic depth, 0.2, stays as published.
    """
    del dims
    return _inverted("efficientnet_b0", in_channels, out_channels, patch, dropout)


def efficientnet_v2_s(
    *, in_channels: int, out_channels: int, dims: int, patch: tuple[int, ...], dropout: float
) -> nn.Module:
    """Return EfficientNetV2-S: (N, in_channels, *patch) to (N, out_channels).

    Its stochastic depth, 0.2, stays as published.
    """
    del dims
    return _inverted("efficientnet_v2_s", in_channels, out_channels, patch, dropout)


def _inverted(
    name: str, in_channels: int, out_channels: int, patch: tuple[int, ...], dropout: float
) -> nn.Module:
    """Return torchvision's network `name`, with dropout before its last layer.

    If no side of the patch reaches `models.stem.SMALL_BELOW`, the first convolution and the first
    block that halves the image have stride 1.
    """
    # Late: torchvision takes seconds to import, and most commands build no network.
    from torchvision import models as torchvision_models

    network: Any = getattr(torchvision_models, name)(
        weights=None, num_classes=out_channels, dropout=dropout
    )
    stem = adapted(network.features[0][0], in_channels)
    # As torchvision initialises the stem that this one replaces.
    nn.init.kaiming_normal_(stem.weight, mode="fan_out")
    network.features[0][0] = stem
    if is_small(patch):
        keep_resolution(network.features, halvings=2)
    return network  # type: ignore[no-any-return]  # torchvision has no types
