"""MedNeXt-S from MONAI's blocks, in 2-D and 3-D."""

from torch import Tensor, nn

from models.output import Output


class MedNeXtS(nn.Module):
    """(N, in_channels, *patch) to logits (N, out_channels, *patch), in training with coarser ones.

    Kernels of 3, expansion by 2, two blocks per level, residual downsampling and upsampling. All
    levels of the decoder are supervised; the lowest level of all, to which nnU-Net's trainer gives
    no weight, is not.
    """

    def __init__(self, *, in_channels: int, out_channels: int, dims: int) -> None:
        super().__init__()
        # Late: MONAI takes seconds to import, and most commands build no network.
        from monai.networks.nets.mednext import create_mednext

        whole = create_mednext(
            "S",
            spatial_dims=dims,
            in_channels=in_channels,
            out_channels=out_channels,
            kernel_size=3,
            deep_supervision=True,
        )
        self.stem = whole.stem
        self.encoder = whole.enc_stages
        self.down = whole.down_blocks
        self.bottleneck = whole.bottleneck
        self.up = whole.up_blocks
        self.decoder = whole.dec_stages
        lowest_first = list(whole.out_blocks)[1:]
        self.heads = nn.ModuleList([whole.out_0, *reversed(lowest_first)])

    def forward(self, image: Tensor) -> Tensor | Output:
        """Return the logits, in training with those of coarser levels, finest first."""
        features = self.stem(image)
        skips = []
        for level, down in zip(self.encoder, self.down, strict=True):
            features = level(features)
            skips.append(features)
            features = down(features)
        features = self.bottleneck(features)
        maps = []
        for up, level, skip in zip(self.up, self.decoder, reversed(skips), strict=True):
            features = level(up(features) + skip)
            maps.append(features)
        finest, *coarser = self.heads
        logits: Tensor = finest(features)
        if not self.training:
            return logits
        deep = tuple(head(m) for head, m in zip(coarser, reversed(maps[:-1]), strict=True))
        return Output(logits=logits, deep=deep)


def mednext_s(
    *, in_channels: int, out_channels: int, dims: int, patch: tuple[int, ...]
) -> MedNeXtS:
    """Return MedNeXt-S; the network is the same for every size."""
    del patch
    return MedNeXtS(in_channels=in_channels, out_channels=out_channels, dims=dims)


def mednext_stages(network: nn.Module) -> tuple[str, ...]:
    """Return the levels of `MedNeXtS`, down and up again."""
    assert isinstance(network, MedNeXtS)
    levels = range(len(network.encoder))
    down = [f"{part}.{level}" for level in levels for part in ("encoder", "down")]
    up = [f"{part}.{level}" for level in levels for part in ("up", "decoder")]
    return ("stem", *down, "bottleneck", *up, "heads")
