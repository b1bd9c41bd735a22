"""Networks: one table, one family of architectures a file.

A row says what a network can be asked for (task, number of spatial dimensions, patch sizes) and
how to build it. Initial weights are drawn from torch's global generator, so that whoever builds a
network decides them with `torch.manual_seed`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from torch import nn

from models.cnn import plain_cnn, vgg_small
from models.resnet import resnet18
from models.unet import unet, unet_small


Option = bool | int | float | str | tuple[float, ...]


def children(network: nn.Module) -> tuple[str, ...]:
    """Return the names of the top-level parts of a network that own parameters, in their order."""
    return tuple(
        name for name, part in network.named_children() if any(True for _ in part.parameters())
    )


@dataclass(frozen=True, kw_only=True)
class Model:
    """One network of the table.

    `build(in_channels=, out_channels=, dims=, patch=, **options)` returns a module that maps images
    (N, in_channels, *patch) to logits: (N, out_channels) for classification,
    (N, out_channels, *patch) for segmentation; or to an `Output`, which holds them. A segmentation
    network also takes any other image whose sides `unfit` accepts. `options` names every option
    with its default.

    For transfer learning: `stages(network)` gives prefixes of module names from input to output
    that cover every parameter once, the last the head; `weights` is torchvision's name of ImageNet
    weights, for 2-D; `first` the name of the first convolution's weight.
    """

    name: str
    build: Callable[..., nn.Module]
    tasks: tuple[str, ...]
    dims: tuple[int, ...]
    divisor: int  # each side of a patch is a multiple of this
    min_size: int  # each side of a patch has at least this many pixels or voxels
    options: Mapping[str, Option] = field(default_factory=dict)
    stages: Callable[[nn.Module], tuple[str, ...]] = children
    weights: str | None = None
    first: str | None = None
    summary: str
    source: str

    def unfit(self, *, task: str, dims: int, patch: tuple[int, ...]) -> str | None:
        """Return the sentence that says why this network cannot be used so; None if it can."""
        if task not in self.tasks:
            return f"model {self.name} is for {' and '.join(self.tasks)}, not for {task}"
        if dims not in self.dims:
            able = " and ".join(f"{d}-D" for d in self.dims)
            return f"model {self.name} takes {able} images, not {dims}-D ones"
        if len(patch) != dims:
            return f"a patch of {dims}-D images has {dims} sides; {patch} has {len(patch)}"
        if any(side % self.divisor or side < self.min_size for side in patch):
            return (
                f"model {self.name} takes patches whose sides are multiples of {self.divisor} and "
                f"at least {self.min_size}, not {' x '.join(map(str, patch))}"
            )
        return None


MODELS: dict[str, Model] = {
    row.name: row
    for row in (
        Model(
            name="plain_cnn",
            build=plain_cnn,
            tasks=("classification",),
            dims=(2, 3),
            divisor=1,
            min_size=8,
            summary="convolution, ReLU, max-pooling, two fully connected layers; no normalisation",
            source="the unoptimized baseline of Xue, optimization of CNNs for medical images",
        ),
        Model(
            name="vgg_small",
            build=vgg_small,
            tasks=("classification",),
            dims=(2, 3),
            divisor=1,
            min_size=8,
            summary="pairs of convolutions with batch normalisation, 16-32-64 channels, mean",
            source="Simonyan and Zisserman 2015, arXiv 1409.1556, made small",
        ),
        Model(
            name="resnet18",
            build=resnet18,
            tasks=("classification",),
            dims=(2, 3),
            divisor=1,
            min_size=16,
            summary="residual network of 18 layers; a stem without down-sampling below 64 pixels",
            source="He et al. 2016, arXiv 1512.03385; torchvision in 2-D, MONAI in 3-D",
        ),
        Model(
            name="unet",
            build=unet,
            tasks=("segmentation",),
            dims=(2, 3),
            divisor=8,
            min_size=16,
            summary="U-Net, 16-32-64-128 channels, instance normalisation",
            source="Ronneberger et al. 2015, arXiv 1505.04597; MONAI's UNet",
        ),
        Model(
            name="unet_small",
            build=unet_small,
            tasks=("segmentation",),
            dims=(2, 3),
            divisor=4,
            min_size=8,
            summary="U-Net, 8-16-32 channels, instance normalisation: for laptops and the demo",
            source="Ronneberger et al. 2015, arXiv 1505.04597; MONAI's UNet",
        ),
    )
}
