"""A U-Net with a ResNet-18 encoder, which segments a patch and says which classes it holds."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.classification.resnet import resnet
from models.output import Output
from models.stem import is_small

ENCODER = (64, 64, 128, 256, 512)  # channels of the stem and of the four layers of ResNet-18
# As in the U-Net of segmentation_models_pytorch (Iakubovskii 2019).
DECODER = (256, 128, 64, 32, 16)


class ResNetUNet(nn.Module):
    """(N, in_channels, *patch) to logits (N, out_channels, *patch) and presence (N, out_channels).

    Presence comes from the mean over the encoder's last map, after dropout. The encoder's
    parameters have torchvision's names, so that its ImageNet weights fit; its stem is that of
    `models.classification.resnet`. Features are enlarged to the size of each skip, so any patch
    fits.
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
        convolution = {2: nn.Conv2d, 3: nn.Conv3d}[dims]
        max_pool = {2: nn.MaxPool2d, 3: nn.MaxPool3d}[dims]
        encoder: Any = resnet(
            in_channels=in_channels,
            out_channels=1,  # for its own last layer, which is not used
            dims=dims,
            patch=patch,
            depth=18,
            dropout=0.0,
        )
        self.conv1, self.bn1, self.relu = encoder.conv1, encoder.bn1, nn.ReLU(inplace=True)
        self.maxpool = nn.Identity() if is_small(patch) else max_pool(3, 2, padding=1)
        self.layer1, self.layer2 = encoder.layer1, encoder.layer2
        self.layer3, self.layer4 = encoder.layer3, encoder.layer4
        skips = (*reversed(ENCODER[:-1]), 0)  # the last block, at full size, has none
        below = (ENCODER[-1], *DECODER)
        self.decoder = nn.ModuleList(
            _block(dims, from_below + skip, width)
            for from_below, skip, width in zip(below, skips, DECODER, strict=False)
        )
        self.dropout = nn.Dropout(dropout)
        self.heads = nn.ModuleDict(
            {
                "logits": convolution(DECODER[-1], out_channels, 3, padding=1),
                "presence": nn.Linear(ENCODER[-1], out_channels),
            }
        )

    def forward(self, image: Tensor) -> Output:
        """Return logits and presence."""
        stem = self.relu(self.bn1(self.conv1(image)))
        one = self.layer1(self.maxpool(stem))
        two = self.layer2(one)
        three = self.layer3(two)
        lowest = self.layer4(three)

        features = lowest
        for block, skip in zip(self.decoder, (three, two, one, stem, None), strict=True):
            size = (image if skip is None else skip).shape[2:]
            features = F.interpolate(features, size=size, mode="nearest")
            features = block(features if skip is None else torch.cat((features, skip), dim=1))
        return Output(
            logits=self.heads["logits"](features),
            presence=self.heads["presence"](self.dropout(lowest.flatten(2).mean(2))),
        )


def _block(dims: int, in_channels: int, out_channels: int) -> nn.Sequential:
    convolution = {2: nn.Conv2d, 3: nn.Conv3d}[dims]
    normalisation = {2: nn.BatchNorm2d, 3: nn.BatchNorm3d}[dims]
    return nn.Sequential(
        convolution(in_channels, out_channels, 3, padding=1, bias=False),
        normalisation(out_channels),
        nn.ReLU(inplace=True),
        convolution(out_channels, out_channels, 3, padding=1, bias=False),
        normalisation(out_channels),
        nn.ReLU(inplace=True),
    )
