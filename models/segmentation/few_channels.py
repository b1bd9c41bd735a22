"""Transposed convolutions to few channels: torch's results up to rounding, faster on a CPU.

The last convolution of a U-Net goes up to full size, with one channel per class. oneDNN, which
torch uses for it on a CPU, always works in blocks of 8 or 16 channels. As a single matrix product,
16 to 3 channels are 2 to 5 times as fast forward, and 1.5 to 2 times with the gradient (sides of 6
to 64, one thread, measured): a third of the time of a trial of MSD hippocampus.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# With more channels than these, torch is faster (dimensions -> channels, measured).
_MOST = {2: 2, 3: 4}
_BY_TORCH: dict[int, Any] = {2: F.conv_transpose2d, 3: F.conv_transpose3d}
_BY_PRODUCT: dict[int, Any] = {
    2: torch.ops.aten.slow_conv_transpose2d,
    3: torch.ops.aten.slow_conv_transpose3d,
}


def with_fast_ends(network: nn.Module) -> None:
    """Replace each transposed convolution to few channels by a `ToFewChannels`.

    Weights keep their names.
    """
    for parent in list(network.modules()):
        for name, child in parent.named_children():
            if (
                isinstance(child, nn.ConvTranspose2d | nn.ConvTranspose3d)
                and child.out_channels <= _MOST[len(child.kernel_size)]
                and child.groups == 1
            ):
                setattr(parent, name, ToFewChannels(child))


class ToFewChannels(nn.Module):
    """A transposed convolution: (N, C, *spatial) to (N, few, *larger)."""

    def __init__(self, by_torch: nn.ConvTranspose2d | nn.ConvTranspose3d) -> None:
        """Take the weights and the settings of torch's module; groups are not supported."""
        super().__init__()
        self.weight, self.bias = by_torch.weight, by_torch.bias
        self.kernel_size, self.stride = by_torch.kernel_size, by_torch.stride
        self.padding, self.output_padding = by_torch.padding, by_torch.output_padding
        self.dilation = by_torch.dilation

    def forward(self, image: Tensor) -> Tensor:
        """Convolve a batch."""
        dims = len(self.kernel_size)
        settings = (self.stride, self.padding, self.output_padding)
        if _leaves_it_to_torch(image):
            made: Tensor = _BY_TORCH[dims](
                image, self.weight, self.bias, *settings, 1, self.dilation
            )
        else:
            made = _BY_PRODUCT[dims](
                image, self.weight, self.kernel_size, self.bias, *settings, self.dilation
            )
        return made

    def extra_repr(self) -> str:
        """Return the settings that repr shows in brackets."""
        return f"{len(self.weight)}, {self.weight.shape[1]}, stride={self.stride}"


def _leaves_it_to_torch(image: Tensor) -> bool:
    # A GPU has its own kernels; autocast knows only torch's name of the operator.
    return image.device.type != "cpu" or torch.is_autocast_enabled("cpu")
