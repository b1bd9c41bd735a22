"""U-Nets by MONAI, in 2-D and 3-D: plain, small, residual, with attention gates."""

from typing import Any

from torch import nn

from models.segmentation.few_channels import with_fast_ends
from models.spec import CHANNELS


def unet(
    *,
    in_channels: int,
    out_channels: int,
    dims: int,
    patch: tuple[int, ...],
    channels: tuple[int, ...],
    residual_units: int,
    dropout: float,
) -> nn.Module:
    """Return MONAI's UNet, a level for each of `channels`, PReLU and instance normalisation.

    It maps (N, in_channels, *patch) to logits (N, out_channels, *patch). Dropout follows every
    convolution except the last. Without residual units a level has one convolution: measured on MSD
    hippocampus (3-D, 1500 steps of Adam), two units per level took three times as long to reach the
    same Dice, 0.84.
    """
    del patch  # fully convolutional: one network for every size
    # Late, here and below: MONAI takes seconds to import, and most commands build no network.
    from monai.networks.nets.unet import UNet

    network: nn.Module = UNet(
        spatial_dims=dims,
        in_channels=in_channels,
        out_channels=out_channels,
        channels=channels,
        strides=(2,) * (len(channels) - 1),
        num_res_units=residual_units,
        norm="instance",
        dropout=dropout,
    )
    with_fast_ends(network)
    return network


def unet_stages(network: Any) -> tuple[str, ...]:
    """Return the levels of `unet`, down and up again.

    MONAI nests them: each level is (down, skip connection around the lower levels, up).
    """
    down, up = [], []
    level, name = network.model, "model"
    while hasattr(level[1], "submodule"):
        down.append(f"{name}.0")
        up.append(f"{name}.2")
        level, name = level[1].submodule, f"{name}.1.submodule"
        if not isinstance(level, nn.Sequential):  # a residual unit
            break
    return (*down, name, *reversed(up))


def attention_unet(
    *, in_channels: int, out_channels: int, dims: int, patch: tuple[int, ...], dropout: float
) -> nn.Module:
    """Return MONAI's AttentionUnet: two convolutions per level, gated skips, batch normalisation.

    It maps (N, in_channels, *patch) to logits (N, out_channels, *patch). Dropout follows the
    convolutions of the levels and is not in the gates.
    """
    del patch  # fully convolutional: one network for every size
    from monai.networks.nets.attentionunet import AttentionUnet

    network: nn.Module = AttentionUnet(
        spatial_dims=dims,
        in_channels=in_channels,
        out_channels=out_channels,
        channels=CHANNELS,
        strides=(2,) * (len(CHANNELS) - 1),
        dropout=dropout,
    )
    return network


def attention_stages(network: Any) -> tuple[str, ...]:
    """Return the levels of `attention_unet`, down and up again, with the gates on the way up."""
    down, up = ["model.0"], ["model.2"]
    level, name = network.model[1], "model.1"
    while True:
        up += [f"{name}.merge", f"{name}.attention", f"{name}.upconv"]
        lower, name = level.submodule, f"{name}.submodule"
        if not isinstance(lower, nn.Sequential):  # the lowest level, a block without levels below
            return (*down, name, *reversed(up))
        down.append(f"{name}.0")
        level, name = lower[1], f"{name}.1"
