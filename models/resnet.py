"""Residual networks: torchvision's in 2-D, MONAI's in 3-D."""

from torch import nn

# Below this, the ImageNet stem (stride 2, then pooling) would leave a 28 x 28 image 7 x 7 before
# the first block. MedMNIST's authors use the stem without down-sampling at 28 x 28 for this reason
# (arXiv 2110.14795); He et al. 2016, section 4.2, do so for CIFAR's 32 x 32.
SMALL_BELOW = 64


def resnet18(
    *, in_channels: int, out_channels: int, dims: int, patch: tuple[int, ...]
) -> nn.Module:
    """Return ResNet-18 from (N, in_channels, *patch) to logits (N, out_channels).

    Where no side of the patch reaches `SMALL_BELOW`, the stem is one 3-wide convolution of
    stride 1 without pooling; else it is 7 wide with stride 2, followed by pooling.
    """
    build = {2: _resnet18_2d, 3: _resnet18_3d}[dims]
    return build(in_channels, out_channels, small=max(patch) < SMALL_BELOW)


def _resnet18_2d(in_channels: int, out_channels: int, *, small: bool) -> nn.Module:
    from torchvision.models import resnet18 as torchvision_resnet18

    network: nn.Module = torchvision_resnet18(weights=None, num_classes=out_channels)
    kernel, stride = (3, 1) if small else (7, 2)
    stem = nn.Conv2d(in_channels, 64, kernel, stride, padding=kernel // 2, bias=False)
    # As torchvision initialises the stem that this one replaces.
    nn.init.kaiming_normal_(stem.weight, mode="fan_out", nonlinearity="relu")
    network.conv1 = stem
    if small:
        network.maxpool = nn.Identity()
    return network


def _resnet18_3d(in_channels: int, out_channels: int, *, small: bool) -> nn.Module:
    # Late: MONAI takes seconds to import, and most commands build no network.
    from monai.networks.nets.resnet import resnet18 as monai_resnet18

    network: nn.Module = monai_resnet18(
        spatial_dims=3,
        n_input_channels=in_channels,
        num_classes=out_channels,
        conv1_t_size=3 if small else 7,
        conv1_t_stride=1 if small else 2,
        no_max_pool=small,
    )
    return network
