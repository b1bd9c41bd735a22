"""UNETR and Swin UNETR by MONAI: transformers as encoders of U-Nets, in 2-D and 3-D."""

from typing import Any

import torch
from torch import nn

TOKEN = 16  # voxels along each side of a token of UNETR
# The published Swin UNETR's, arXiv 2201.01266, table 1; MONAI's default is half of it.
FEATURES = 48


def unetr(
    *, in_channels: int, out_channels: int, dims: int, patch: tuple[int, ...], dropout: float
) -> nn.Module:
    """Return UNETR from (N, in_channels, *patch) to logits (N, out_channels, *patch).

    Its positions are learned for the patch it was built for, so it takes only images of that size.
    Dropout is in the transformer.
    """
    # Late, here and below: MONAI takes seconds to import, and most commands build no network.
    from monai.networks.nets.unetr import UNETR

    network: Any = UNETR(
        in_channels=in_channels,
        out_channels=out_channels,
        img_size=patch,
        dropout_rate=dropout,
        spatial_dims=dims,
    )
    for block in network.vit.blocks:
        # For attention to another sequence, which does not exist here: no gradient reaches it.
        block.norm_cross_attn = nn.Identity()
    return network  # type: ignore[no-any-return]  # MONAI has no types


def swin_unetr(
    *, in_channels: int, out_channels: int, dims: int, patch: tuple[int, ...], dropout: float
) -> nn.Module:
    """Return Swin UNETR from (N, in_channels, *patch) to logits (N, out_channels, *patch).

    The network is the same for every size. Dropout is in the transformer.
    """
    del patch
    from monai.networks.nets.swin_unetr import SwinUNETR

    device = torch.get_default_device()
    with torch.device("cpu"):  # MONAI reads values of a tensor, which the meta device lacks
        network: Any = SwinUNETR(
            in_channels=in_channels,
            out_channels=out_channels,
            feature_size=FEATURES,
            drop_rate=dropout,
            spatial_dims=dims,
        )
    # Its check by numpy that sides are multiples of 32 breaks compiled graphs; the row checks it.
    network._check_input_size = _unchecked  # noqa: SLF001  # MONAI has no setting for it
    return network.to(device)  # type: ignore[no-any-return]  # MONAI has no types


def _unchecked(_sides: Any) -> None:
    """Accept images of any size."""
