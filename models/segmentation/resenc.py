"""nnU-Net's U-Net with a residual encoder, by its authors' own library, in 2-D and 3-D."""

from typing import Any

import torch
from torch import Tensor, nn

from models.output import Output
from models.segmentation.dynunet import BASE_WIDTH, SLOPE, WIDEST, plan

# Residual blocks of each level, the finest first: nnU-Net's ResEncUNetPlanner, whose further levels
# all have the last number.
BLOCKS = (1, 3, 4, 6, 6, 6, 6, 6, 6, 6, 6, 6)


class ResEncUNet(nn.Module):
    """(N, in_channels, *patch) to logits (N, out_channels, *patch), in training with coarser ones.

    Levels, kernels, strides and widths are those of `models.segmentation.dynunet`; each level of
    the encoder has residual blocks (ResNet-D's), each level of the decoder one convolution.
    Parameters have the names of dynamic_network_architectures, so that nnU-Net's weights of the
    same plan fit. Dropout follows the first convolution of each block and of each decoder level;
    nnU-Net has none. As in nnU-Net, every level of the decoder except the lowest is supervised.
    """

    def __init__(
        self,
        *,
        in_channels: int,
        out_channels: int,
        dims: int,
        patch: tuple[int, ...],
        dropout: float,
    ) -> None:
        super().__init__()
        # Late: most commands build no network.
        from dynamic_network_architectures.architectures.unet import ResidualEncoderUNet
        from dynamic_network_architectures.building_blocks.residual import BasicBlockD

        kernels, strides = plan(patch)
        levels = len(kernels)
        whole: Any = ResidualEncoderUNet(
            input_channels=in_channels,
            n_stages=levels,
            features_per_stage=[
                min(BASE_WIDTH * 2**level, WIDEST[dims]) for level in range(levels)
            ],
            conv_op={2: nn.Conv2d, 3: nn.Conv3d}[dims],
            kernel_sizes=kernels,
            strides=strides,
            n_blocks_per_stage=BLOCKS[:levels],
            num_classes=out_channels,
            n_conv_per_stage_decoder=[1] * (levels - 1),
            conv_bias=True,
            norm_op={2: nn.InstanceNorm2d, 3: nn.InstanceNorm3d}[dims],
            norm_op_kwargs={"eps": 1e-5, "affine": True},
            nonlin=nn.LeakyReLU,
            nonlin_kwargs={"negative_slope": SLOPE, "inplace": True},
            deep_supervision=True,
        )
        whole.apply(whole.initialize)
        self.encoder, self.decoder = whole.encoder, whole.decoder
        del self.decoder.encoder  # a second reference to the encoder
        blocks = [m for m in self.encoder.modules() if isinstance(m, BasicBlockD)]
        first = [self.encoder.stem.convs[0], *(block.conv1 for block in blocks)]
        for convolution in (*first, *(level.convs[0] for level in self.decoder.stages)):
            convolution.all_modules.append(nn.Dropout(dropout))
        for level in range(levels - 1 - max(levels - 2, 1)):
            # The lowest level, to which nnU-Net gives no weight.
            self.decoder.seg_layers[level] = nn.Identity()

    def forward(self, image: Tensor) -> Tensor | Output:
        """Return the logits, in training with those of coarser levels, finest first."""
        *skips, features = self.encoder(image)
        maps = []
        levels = zip(self.decoder.transpconvs, self.decoder.stages, reversed(skips), strict=True)
        for enlarge, level, skip in levels:
            features = level(torch.cat((enlarge(features), skip), dim=1))
            maps.append(features)
        *coarser, finest = self.decoder.seg_layers
        logits: Tensor = finest(features)
        if not self.training:
            return logits
        lower = [
            head(m)
            for head, m in zip(coarser, maps[:-1], strict=True)
            if not isinstance(head, nn.Identity)
        ]
        return Output(logits=logits, deep=tuple(reversed(lower)))


def resenc_stages(network: nn.Module) -> tuple[str, ...]:
    """Return the levels of `ResEncUNet`, down and up again."""
    assert isinstance(network, ResEncUNet)
    down = [f"encoder.stages.{level}" for level in range(len(network.encoder.stages))]
    levels = range(len(network.decoder.stages))
    up = [f"decoder.{part}.{level}" for level in levels for part in ("transpconvs", "stages")]
    return ("encoder.stem", *down, *up, "decoder.seg_layers")
