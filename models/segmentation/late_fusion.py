"""Late fusion: an encoder for each channel (each modality of MRI), one decoder for all.

Early fusion is the `unet` itself, whose first convolution sees all channels at once.
"""

from typing import Any

import torch
from torch import Tensor, nn

from models.segmentation.few_channels import with_fast_ends
from models.spec import CHANNELS


class LateUNet(nn.Module):
    """(N, in_channels, *patch) to logits (N, out_channels, *patch).

    The levels are those of the `unet`, with MONAI's blocks too. Each channel has its own encoder.
    At every level the maps of all channels are joined and reduced to the level's width by a 1-wide
    convolution, from which the decoder goes on.
    """

    def __init__(self, *, in_channels: int, out_channels: int, dims: int, dropout: float) -> None:
        super().__init__()
        *widths, lowest = CHANNELS

        def block(into: int, out: int, *, stride: int = 1, kernel: int = 3, **more: Any) -> Any:
            # Late: MONAI takes seconds to import, and most commands build no network.
            from monai.networks.blocks.convolutions import Convolution

            return Convolution(
                dims, into, out, strides=stride, kernel_size=kernel, norm="instance", **more
            )

        self.encoders = nn.ModuleList(
            nn.ModuleList(block(into, out, stride=2, dropout=dropout) for _ in range(in_channels))
            for into, out in zip((1, *widths), widths, strict=False)
        )
        self.fuse = nn.ModuleList(block(in_channels * w, w, kernel=1) for w in widths)
        self.bottom = block(widths[-1], lowest, dropout=dropout)
        joined = [2 * width for width in widths[:-1]] + [widths[-1] + lowest]
        self.decoder = nn.ModuleList(
            block(joined[level], widths[level - 1], stride=2, is_transposed=True, dropout=dropout)
            for level in reversed(range(1, len(widths)))
        )
        self.head = block(joined[0], out_channels, stride=2, is_transposed=True, conv_only=True)

    def forward(self, image: Tensor) -> Tensor:
        """Return the logits."""
        maps = list(torch.split(image, 1, dim=1))
        skips = []
        for encoders, fuse in zip(self.encoders, self.fuse, strict=True):
            assert isinstance(encoders, nn.ModuleList)
            maps = [encoder(m) for encoder, m in zip(encoders, maps, strict=True)]
            skips.append(fuse(torch.cat(maps, dim=1)))
        features = self.bottom(skips[-1])
        for up, skip in zip((*self.decoder, self.head), reversed(skips), strict=True):
            features = up(torch.cat((skip, features), dim=1))
        logits: Tensor = features
        return logits


def unet_late(
    *, in_channels: int, out_channels: int, dims: int, patch: tuple[int, ...], dropout: float
) -> LateUNet:
    """Return a U-Net with an encoder for each channel; the network is the same for every size."""
    del patch
    network = LateUNet(
        in_channels=in_channels, out_channels=out_channels, dims=dims, dropout=dropout
    )
    with_fast_ends(network)
    return network


def late_stages(network: nn.Module) -> tuple[str, ...]:
    """Return the levels of `LateUNet`, down and up again."""
    assert isinstance(network, LateUNet)
    down = [f"{part}.{n}" for n in range(len(network.fuse)) for part in ("encoders", "fuse")]
    up = [f"decoder.{n}" for n in range(len(network.decoder))]
    return (*down, "bottom", *up, "head")
