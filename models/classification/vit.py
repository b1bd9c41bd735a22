"""Vision transformers from torchvision's layers, in 2-D."""

from math import sqrt
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.stem import is_small

TOKEN = 16  # pixels along each side of a token
# The same for small images, since 16 would leave four tokens of a 28 x 28 image: the stem without
# its factor of 4, as in the other networks. Lee et al. 2021 (arXiv 2112.13492), section 4.1, also
# take 4 for CIFAR's 32 x 32.
SMALL_TOKEN = 4
GRID = 14  # tokens along each side of the published 224 pixels
LAYERS = 12
# For the truncated normal weights of the head, as in DeiT (Touvron et al. 2021). torchvision's are
# zeros, which Dosovitskiy et al. use only for fine-tuning.
STD = 0.02


class ViT(nn.Module):
    """(N, in_channels, *patch) to logits (N, out_channels), from the class token.

    Images are padded with zeros at their ends to whole tokens. The learned positions are always
    those of the published grid of 14 x 14 tokens; for another grid they are interpolated (bicubic,
    as for fine-tuning in Dosovitskiy et al., section 3.2). So parameters have torchvision's names
    and shapes, and its weights fit at any size, except for the stem of small images.
    """

    def __init__(
        self,
        *,
        in_channels: int,
        out_channels: int,
        patch: tuple[int, ...],
        width: int,
        heads: int,
        dropout: float,
    ) -> None:
        super().__init__()
        # Late: torchvision takes seconds to import, and most commands build no network.
        from torchvision.models import VisionTransformer

        published: Any = VisionTransformer(
            image_size=GRID * TOKEN,
            patch_size=TOKEN,
            num_layers=LAYERS,
            num_heads=heads,
            hidden_dim=width,
            mlp_dim=4 * width,
            dropout=dropout,
            num_classes=out_channels,
        )
        token = SMALL_TOKEN if is_small(patch) else TOKEN
        self.conv_proj = nn.Conv2d(in_channels, width, token, token)
        # Initialised as in torchvision.
        nn.init.trunc_normal_(self.conv_proj.weight, std=sqrt(1 / (in_channels * token**2)))
        nn.init.zeros_(self.conv_proj.bias)  # type: ignore[arg-type]  # it has a bias
        self.class_token = published.class_token
        self.encoder = published.encoder
        self.heads = published.heads
        nn.init.trunc_normal_(self.heads.head.weight, std=STD)

        grid = tuple(-(-side // token) for side in patch)
        height, length = (tokens * token - side for tokens, side in zip(grid, patch, strict=True))
        self.padding = (0, length, 0, height)
        self.spread: Tensor | None
        self.register_buffer("spread", None if grid == (GRID, GRID) else _spread(grid), False)

    def forward(self, image: Tensor) -> Tensor:
        """Return the logits."""
        tokens = self.conv_proj(F.pad(image, self.padding)).flatten(2).transpose(1, 2)
        tokens = torch.cat((self.class_token.expand(len(tokens), -1, -1), tokens), dim=1)
        features = self.encoder.layers(self.encoder.dropout(tokens + self._positions()))
        logits: Tensor = self.heads(self.encoder.ln(features)[:, 0])
        return logits

    def _positions(self) -> Tensor:
        learned: Tensor = self.encoder.pos_embedding
        if self.spread is None:
            return learned
        # A product: its gradient on a GPU is the same in every run; that of interpolation is not.
        return torch.cat((learned[:, :1], self.spread @ learned[:, 1:]), dim=1)


def _spread(grid: tuple[int, ...]) -> Tensor:
    """Return the matrix (tokens, GRID ** 2) from positions of the published grid to another."""
    each = torch.eye(GRID**2).reshape(GRID**2, 1, GRID, GRID)
    resized = F.interpolate(each, grid, mode="bicubic", antialias=True)
    return resized.reshape(GRID**2, -1).T.contiguous()


def vit(
    *,
    in_channels: int,
    out_channels: int,
    dims: int,
    patch: tuple[int, ...],
    width: int,
    heads: int,
    dropout: float,
) -> ViT:
    """Return a vision transformer of 12 layers with `width` features per token."""
    del dims
    return ViT(
        in_channels=in_channels,
        out_channels=out_channels,
        patch=patch,
        width=width,
        heads=heads,
        dropout=dropout,
    )


def vit_stages(_network: nn.Module) -> tuple[str, ...]:
    """Return the stages of `ViT`: stem, class token and positions, layers, head."""
    layers = [f"encoder.layers.encoder_layer_{n}" for n in range(LAYERS)]
    return ("conv_proj", "class_token", "encoder.pos_embedding", *layers, "encoder.ln", "heads")
