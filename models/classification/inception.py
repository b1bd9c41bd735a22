"""Inception-v3 by torchvision, in 2-D."""

from typing import Any

from torch import nn

from models.stem import adapted, is_small

# Its convolutions without padding need 75 pixels with the published stem (torchvision says
# min_size 75), and 21 if the stem does not downsample by 4.
LEAST = 75
STD = 0.1  # of its truncated normal weights, as in torchvision


def inception_v3(
    *, in_channels: int, out_channels: int, dims: int, patch: tuple[int, ...], dropout: float
) -> nn.Module:
    """Return Inception-v3 without auxiliary logits: (N, in_channels, *patch) to (N, out_channels).

    If a side is below `LEAST`, the first convolution has stride 1 and the first pooling is left
    out, as in the other networks' stems for small images.
    """
    del dims
    # Late: torchvision takes seconds to import, and most commands build no network.
    from torchvision.models import inception_v3 as torchvision_inception_v3

    network: Any = torchvision_inception_v3(
        weights=None,
        num_classes=out_channels,
        aux_logits=False,
        transform_input=False,
        init_weights=True,
        dropout=dropout,
    )
    small = is_small(patch, least=LEAST)
    stem = adapted(network.Conv2d_1a_3x3.conv, in_channels, stride=1 if small else 2)
    nn.init.trunc_normal_(stem.weight, std=STD)
    network.Conv2d_1a_3x3.conv = stem
    if small:
        network.maxpool1 = nn.Identity()
    return network  # type: ignore[no-any-return]  # torchvision has no types
