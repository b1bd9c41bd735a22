"""SegResNet by MONAI, in 2-D and 3-D."""

from typing import Any

from torch import nn

WIDTH = 16  # half of the paper's 32: MONAI's bundle brats_mri_segmentation


def segresnet(
    *, in_channels: int, out_channels: int, dims: int, patch: tuple[int, ...], dropout: float
) -> nn.Module:
    """Return a residual encoder and a light decoder, group normalisation, without the VAE branch.

    It maps (N, in_channels, *patch) to logits (N, out_channels, *patch). Dropout of whole channels
    follows the first convolution.
    """
    del patch  # fully convolutional: one network for every size
    # Late: MONAI takes seconds to import, and most commands build no network.
    from monai.networks.nets.segresnet import SegResNet

    network: nn.Module = SegResNet(
        spatial_dims=dims,
        init_filters=WIDTH,
        in_channels=in_channels,
        out_channels=out_channels,
        dropout_prob=dropout,
        blocks_down=(1, 2, 2, 4),
        blocks_up=(1, 1, 1),
    )
    return network


def segresnet_stages(network: Any) -> tuple[str, ...]:
    """Return the levels of `segresnet`, down and up again."""
    down = [f"down_layers.{level}" for level in range(len(network.down_layers))]
    up = [
        f"{part}.{level}"
        for level in range(len(network.up_layers))
        for part in ("up_samples", "up_layers")
    ]
    return ("convInit", *down, *up, "conv_final.0", "conv_final.2")
