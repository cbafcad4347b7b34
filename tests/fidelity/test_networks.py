"""What reaches the output of a published network, and each of its weights, is what the report's
layers compute.
"""

import functools

import pytest
import reference
import torch
from systems import build, small_model

WIDTH = 4
UNET15 = functools.partial(reference.unet, width=WIDTH, depth=8, end=torch.tanh)
UNET64 = functools.partial(reference.unet, width=WIDTH, depth=6, stem=True, end=torch.sigmoid)
UNET256 = functools.partial(UNET15, relu_skips=True)
PATCHGAN = functools.partial(reference.patchgan, width=WIDTH)
PATCHGAN64 = functools.partial(PATCHGAN, hidden=5, norm_first=True)
RESNET = functools.partial(reference.resnet, width=WIDTH)
BOTH_WAYS = {  # recipe -> what the layers of its generators and of its discriminators compute
    "cyclegan_t1t2_unet15": (UNET15, PATCHGAN),
    "dualgan_t1t2_unet15": (UNET15, PATCHGAN),
    "cyclegan_t1t2_64": (UNET64, PATCHGAN64),
    "cyclegan_t1t2_256": (UNET256, PATCHGAN),
    "cyclegan_ct_mr": (functools.partial(RESNET, blocks=6), PATCHGAN),
    "cyclegan_ct_mr_resnet9": (functools.partial(RESNET, blocks=9), PATCHGAN),
}
NETWORKS = {  # (recipe, network) -> what its report's layers compute
    ("pix2pix_tumour", "g_ab"): functools.partial(reference.attention_unet, width=WIDTH),
    ("pix2pix_tumour", "d_ab"): PATCHGAN,
    ("dcgan_tumour", "generator"): functools.partial(
        reference.dcgan_generator, width=WIDTH, doublings=3, first_side=8
    ),
    ("dcgan_tumour", "discriminator"): functools.partial(
        reference.dcgan_discriminator, width=WIDTH
    ),
}
for _recipe, (_generator, _discriminator) in BOTH_WAYS.items():
    NETWORKS |= dict.fromkeys([(_recipe, "g_ab"), (_recipe, "g_ba")], _generator)
    NETWORKS |= dict.fromkeys([(_recipe, "d_a"), (_recipe, "d_b")], _discriminator)


def input_of(network, method):
    """Two inputs of a network: noise or images, of as many channels as its first layer takes."""
    first = next(module for module in network.modules() if hasattr(module, "weight"))
    channels = first.weight.shape[1]
    size = () if first.weight.ndim == 2 else method.geometry.size
    return torch.randn(2, channels, *size, generator=torch.Generator().manual_seed(1))


@pytest.mark.fidelity
@pytest.mark.parametrize(("recipe", "name"), NETWORKS)
def test_a_network_computes_what_its_report_lists(recipe, name):
    method = build(small_model(recipe))
    network = getattr(method, name)
    torch.manual_seed(2)
    for weight in network.parameters():
        torch.nn.init.normal_(weight, 0.0, 0.2)  # large enough for every bend of an activation
    network.double()  # float32 rounds differently on each processor
    given = input_of(network, method).double().requires_grad_()
    weights = reference.Weights(network, given)
    used = [given, *weights.left]

    found = network(given)
    stated = NETWORKS[recipe, name](weights, given)
    direction = torch.randn(found.shape, dtype=found.dtype)
    of_found = torch.autograd.grad((found * direction).sum(), used)
    of_stated = torch.autograd.grad((stated * direction).sum(), used)

    assert weights.left == []
    torch.testing.assert_close(found, stated, rtol=1e-3, atol=1e-4)
    for mine, theirs in zip(of_found, of_stated, strict=True):
        assert (mine - theirs).norm() <= 2e-3 * theirs.norm() + 1e-5
