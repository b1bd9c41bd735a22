"""ConvNeXt by torchvision, in 2-D."""

from typing import Any

from torch import nn

from models.stem import adapted, is_small

# The published stem divides by 4, the three steps after it by 2 each, none of them padded.
LEAST = 32
STD = 0.02  # of its truncated normal weights, as in torchvision


def convnext_tiny(
    *, in_channels: int, out_channels: int, dims: int, patch: tuple[int, ...], dropout: float
) -> nn.Module:
    """Return ConvNeXt-T from (N, in_channels, *patch) to logits (N, out_channels).

    If no side of the patch reaches `models.stem.SMALL_BELOW`, or one is below `LEAST`, the stem is
    3 wide with stride 1; else it is 4 wide with stride 4. Dropout precedes the last layer; the
    stochastic depth, 0.1, stays as published.
    """
    del dims
    # Late: torchvision takes seconds to import, and most commands build no network.
    from torchvision.models import convnext_tiny as torchvision_convnext_tiny

    network: Any = torchvision_convnext_tiny(weights=None, num_classes=out_channels)
    small = is_small(patch, least=LEAST)
    kernel, stride = (3, 1) if small else (None, None)
    stem = adapted(network.features[0][0], in_channels, kernel=kernel, stride=stride)
    nn.init.trunc_normal_(stem.weight, std=STD)
    nn.init.zeros_(stem.bias)  # type: ignore[arg-type]  # ConvNeXt's convolutions have a bias
    network.features[0][0] = stem
    # Beside the flattening, so that every parameter keeps its name in pretrained weights.
    network.classifier[1] = nn.Sequential(network.classifier[1], nn.Dropout(dropout))
    return network  # type: ignore[no-any-return]  # torchvision has no types
