"""Stems of networks made for 224 x 224 photographs: for other channels, and for small images."""

from torch import nn

# Below this, the ImageNet stem (a factor of 4) would leave a 28 x 28 image 7 x 7 before the first
# block. MedMNIST's authors use stems without down-sampling at 28 x 28 for this reason (arXiv
# 2110.14795); He et al. 2016, section 4.2, and Huang et al. 2017, section 3, for CIFAR's 32 x 32.
SMALL_BELOW = 64


def is_small(patch: tuple[int, ...], *, least: int = 1) -> bool:
    """Return whether a network must leave out its stem's downsampling for images of this size.

    `least` is the shortest side that survives the whole network with it.
    """
    return max(patch) < SMALL_BELOW or min(patch) < least


def adapted(
    old: nn.Conv2d, in_channels: int, *, kernel: int | None = None, stride: int | None = None
) -> nn.Conv2d:
    """Return a first convolution like `old`, with other channels, kernel or stride and new weights.

    A new kernel is padded to keep the size; without one the padding stays as it is. The caller
    draws the weights as its library does for `old`.
    """
    size, step, pad = old.kernel_size, old.stride, old.padding
    return nn.Conv2d(
        in_channels,
        old.out_channels,
        size if kernel is None else kernel,  # type: ignore[arg-type]  # a pair, typed as any tuple
        step if stride is None else stride,  # type: ignore[arg-type]  # as above
        padding=pad if kernel is None else kernel // 2,  # type: ignore[arg-type]  # as above
        bias=old.bias is not None,
    )


def keep_resolution(network: nn.Module, *, halvings: int) -> None:
    """Remove the stride from the first `halvings` convolutions that have one."""
    strided = [m for m in network.modules() if isinstance(m, nn.Conv2d) and max(m.stride) > 1]
    for convolution in strided[:halvings]:
        convolution.stride = (1, 1)
