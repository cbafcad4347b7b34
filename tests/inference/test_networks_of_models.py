"""`model.network` and `model.prepare`: our networks in other programs."""

import numpy as np
import pytest
import torch
from tiny import PATCHGAN, UNET, small_run

import gantk

SHARED = {"generator": UNET, "discriminator": PATCHGAN}
# the method, keys of its data, the two domains
MODELS = {
    "cyclegan": ({"name": "cyclegan", **SHARED}, {}, ("T2", "T1")),
    "pix2pix": ({"name": "pix2pix", **SHARED}, {"fit": "resize"}, ("T1", "T2")),
    "transposed": (
        {"name": "pix2pix", **SHARED, "generator": {**UNET, "up": "transpose"}},
        {"fit": "crop", "intensity": "zscore"},
        ("T1", "T2"),
    ),
}


def smooth_images() -> torch.Tensor:
    """Images (2, 1, 40, 32) from 0 to about 1, dark at the border."""
    noise = torch.rand(2, 1, 5, 4, generator=torch.Generator().manual_seed(0))
    noise[..., 0, :] = 0
    return torch.nn.functional.interpolate(noise, (40, 32), mode="bilinear")


@pytest.mark.quick_cases("pix2pix")
@pytest.mark.parametrize("name", MODELS)
def test_network_between_prepare_and_restore_is_translate(tmp_path, name):
    method, data, (source, to) = MODELS[name]
    model = gantk.load(small_run(tmp_path, method, **data), device="cpu")
    network = model.network(source, to)
    prepare = model.prepare(source, to)
    native = smooth_images() * float(prepare.source.native.max())
    expected = model.translate(native[:, 0], to=to)[:, None]

    seen = prepare(native)
    made = prepare.restore(network(seen), native, seen)

    assert isinstance(network, torch.nn.Module)
    torch.testing.assert_close(made, expected, rtol=0, atol=1e-5 * float(np.ptp(expected)))


@pytest.mark.slow
def test_a_network_of_a_model_can_be_trained(tmp_path):
    model = gantk.load(small_run(tmp_path, MODELS["pix2pix"][0]), device="cpu")
    image = torch.rand(1, 1, 32, 32)
    before = model.translate(image[0], to="T2")  # folds the weights for speed
    network = model.network("T1", "T2").train().requires_grad_()
    optimizer = torch.optim.SGD(network.parameters(), 0.1)

    network(image).square().mean().backward()
    optimizer.step()

    assert all(weight.grad is not None for weight in network.parameters())
    assert all(weight.grad.abs().sum() > 0 for weight in list(network.parameters())[-2:])
    torch.testing.assert_close(model.translate(image[0], to="T2"), before)


def test_sides_that_a_network_cannot_halve_are_refused(tiny_run):
    network = gantk.load(tiny_run, device="cpu").network("T1", "T2")

    with pytest.raises(gantk.UserError, match=r"images of 41 x 50.*multiple of 8"):
        network(torch.zeros(1, 1, 41, 50))


@pytest.mark.parametrize(("source", "to"), [("T2", "T2"), ("T1", "FLAIR"), ("CT", "T2")])
def test_a_direction_that_there_is_not_is_refused(tiny_run, source, to):
    model = gantk.load(tiny_run, device="cpu")
    for function in (model.network, model.prepare):
        with pytest.raises(gantk.UserError, match="T1"):
            function(source, to)
