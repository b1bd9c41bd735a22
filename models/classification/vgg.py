"""VGG with batch normalisation, by torchvision, in 2-D."""

from typing import Any

from torch import nn

from models.stem import adapted

# Five poolings reduce 32 pixels to one.
LEAST = 32


def vgg16(
    *, in_channels: int, out_channels: int, dims: int, patch: tuple[int, ...], dropout: float
) -> nn.Module:
    """Return VGG-16 with batch normalisation: (N, in_channels, *patch) to (N, out_channels).

    Its stem does not downsample, so it stays as published. If a side is below `LEAST`, the poolings
    round up, so that no pixel is lost, as in Zagoruyko's VGG for CIFAR
    (github.com/szagoruyko/cifar.torch). The adaptive pooling to 7 x 7 and the three fully connected
    layers are the published ones.
    """
    del dims
    # Late: torchvision takes seconds to import, and most commands build no network.
    from torchvision.models import vgg16_bn

    network: Any = vgg16_bn(weights=None, num_classes=out_channels, dropout=dropout)
    stem = adapted(network.features[0], in_channels)
    # Initialised as in torchvision.
    nn.init.kaiming_normal_(stem.weight, mode="fan_out", nonlinearity="relu")
    nn.init.zeros_(stem.bias)  # type: ignore[arg-type]  # VGG's convolutions have a bias
    network.features[0] = stem
    if min(patch) < LEAST:
        for layer in network.features:
            if isinstance(layer, nn.MaxPool2d):
                layer.ceil_mode = True
    return network  # type: ignore[no-any-return]  # torchvision has no types
