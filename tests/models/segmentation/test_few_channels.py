"""Transposed convolutions to few channels give what torch's own give."""

import copy

import pytest
import torch
from torch import nn

from models.segmentation.few_channels import ToFewChannels, with_fast_ends
from models.table import MODELS

KINDS = {2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
SETTINGS = [
    {"kernel_size": 3, "stride": 2, "padding": 1, "output_padding": 1},
    {"kernel_size": 2, "stride": 2, "bias": False},
    {"kernel_size": 3, "stride": 1, "padding": 2, "dilation": 2},
]


@pytest.mark.parametrize("dims", KINDS)
@pytest.mark.parametrize("settings", SETTINGS)
def test_values_and_gradients_are_torchs(dims, settings):
    torch.manual_seed(dims)
    own = KINDS[dims](5, 2, **settings)
    image = torch.randn(2, 5, *range(5, 5 + dims))
    found = []
    for module in (own, ToFewChannels(copy.deepcopy(own))):
        given = image.clone().requires_grad_()
        made = module(given)
        made.square().sum().backward()
        found.append([made, given.grad, *(p.grad for p in module.parameters())])
    for expected, value in zip(*found, strict=True):
        torch.testing.assert_close(value, expected, rtol=1e-4, atol=1e-4)


def test_a_gradient_of_the_gradient_is_right():
    module = ToFewChannels(nn.ConvTranspose2d(3, 2, 3, 2, 1, 1).double())
    image = torch.randn(1, 3, 4, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(module, (image,))


@pytest.mark.parametrize("dims", KINDS)
def test_a_network_keeps_its_weights_names_and_its_wide_convolutions(dims):
    network = nn.Sequential(KINDS[dims](8, 16, 2, 2), KINDS[dims](16, 2, 2, 2))
    before = network.state_dict()
    with_fast_ends(network)
    assert [type(module) for module in network] == [KINDS[dims], ToFewChannels]
    after = network.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[name], value) for name, value in before.items())


@pytest.mark.parametrize("name", ["unet", "unet_small", "unet_late"])
def test_the_u_nets_end_in_one_and_train_in_mixed_precision(name):
    network = MODELS[name].build(in_channels=2, out_channels=2, dims=3, patch=(16, 16, 16))
    assert any(isinstance(module, ToFewChannels) for module in network.modules())
    image = torch.randn(2, 2, 16, 16, 16)
    plain = network(image)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = network(image)
    mixed.float().sum().backward()
    assert torch.isfinite(mixed).all()
    assert plain.shape == mixed.shape
