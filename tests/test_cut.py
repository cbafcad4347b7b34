"""CUT (Park et al. 2020): the contrastive loss against a plain formula, and what trains with what."""

from __future__ import annotations

import pytest
import torch
from tiny import PATCHGAN

from gantk.errors import UserError
from gantk.method import Batch, Geometry
from gantk.nets.unet import UNet
from gantk.plugin.spec import bind, bind_or_raise
from gantk.testing.small import random_images
from gantk_cut.model import feature_channels
from gantk_cut.patchnce import PatchNCE

RESNET = {"name": "resnet", "width": 4, "blocks": 2}


def build(channels: tuple[int, int] = (1, 1), **options):
    torch.manual_seed(0)
    table = {"name": "cut", "generator": RESNET, "discriminator": PATCHGAN, "width": 8, "patches": 16}
    return bind_or_raise("method", table | options)(Geometry(2, (16, 16), dict(zip("ab", channels, strict=True))))


def images() -> Batch:
    return Batch({name: random_images(2, 1, (16, 16), seed=seed) for seed, name in enumerate("ab")})


def test_the_loss_is_equation_3_averaged_over_maps_of_what_the_heads_make_of_them():
    torch.manual_seed(0)
    nce = PatchNCE([3, 2], width=6, patches=64).double()
    for parameter in nce.parameters():
        torch.nn.init.normal_(parameter)
    maps = [[torch.rand(2, 3, 4, 4).double(), torch.rand(2, 2, 2, 2).double()] for _ in range(2)]
    expected = 0.0
    for head, query, key in zip(nce.heads, *maps, strict=True):  # every place is compared: their order plays no part
        sides = []
        for features in (query, key):
            flat = features.flatten(2).transpose(1, 2)
            hidden = (flat @ head[0].weight.T + head[0].bias).clamp_min(0)
            made = hidden @ head[2].weight.T + head[2].bias
            sides.append(made / made.norm(dim=-1, keepdim=True))
        log_odds = torch.log_softmax(sides[0] @ sides[1].transpose(1, 2) / 0.07, dim=-1)
        expected += -log_odds.diagonal(dim1=1, dim2=2).mean().item() / 2
    assert nce(*maps).item() == pytest.approx(expected, rel=1e-4)
    assert PatchNCE([3], width=4)([torch.rand(2, 3, 1, 1)], [torch.rand(2, 3, 1, 1)]).item() == 0  # one place


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_places_are_the_same_in_query_and_key_and_in_every_image(layout):
    rows = torch.arange(12.0).view(1, 1, 3, 4).expand(2, 2, 3, 4).contiguous(memory_format=layout)
    taken = []

    class Seen(torch.nn.Module):
        def forward(self, x):
            taken.append(x[..., 0])
            return x

    nce = PatchNCE([2], width=4, patches=5)
    nce.heads[0] = Seen()
    nce([rows], [rows])
    query, key = taken
    assert torch.equal(query, key) and torch.equal(query[0], query[1])
    assert len(set(query[0].tolist())) == 5  # no place twice: a right one would also count as wrong


def test_under_bf16_the_heads_learn_as_they_do_in_float32():
    """Autocast keeps weights that it made for sources, which get no gradient, and would use them for outputs too."""
    torch.manual_seed(0)
    nce, query, key = PatchNCE([4], width=8), torch.rand(1, 4, 6, 6), torch.rand(1, 4, 6, 6)
    found = []
    for enabled in (False, True):
        torch.manual_seed(1)
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            loss = nce([query], [key])
        found.append(torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(nce.parameters()))]))
    assert (found[0] - found[1]).norm() < 0.2 * found[0].norm()


@pytest.mark.parametrize(
    ("options", "names"),
    [
        ({}, {"adversarial", "nce", "nce_identity"}),
        ({"nce_identity": False, "nce": 10.0}, {"adversarial", "nce"}),
        ({"local_ncc": 1.0, "flat_region": 1.0, "nce": 0.0}, {"adversarial", "local_ncc", "flat_region"}),
    ],
    ids=["paper", "fast", "structure"],
)
def test_losses_are_those_of_the_paper_and_of_its_fast_form(options, names):
    assert set(build(**options).generator_losses(images())) == names


@pytest.mark.parametrize("name", ["unet", "resnet", "attention_unet"])
def test_heads_fit_the_maps_of_every_generator_that_shows_them(name):
    network = bind("generator", {"name": name, "width": 4})(1, 1, 2)
    found = [each.shape[1] for each in network.features(torch.rand(1, 1, 32, 32))]
    assert feature_channels(network, 1, (32, 32)) == found


def test_what_cannot_work_is_refused_with_the_way_out(monkeypatch):
    assert build().directions() == ["b"]
    with pytest.raises(UserError, match=r"a to b only.*cyclegan"):
        build().translate(images()["a"], "a")
    with pytest.raises(UserError, match=r"1 and 3 channels.*cyclegan"):
        build(channels=(1, 3))
    with pytest.raises(UserError, match=r"layers = \[0, 9\].*0 \(the image\) to 5"):
        build(layers=[0, 9])
    monkeypatch.delattr(UNet, "features")  # a generator that does not show its maps
    with pytest.raises(UserError, match=r"the generator 'unet' cannot be used here.*resnet"):
        build(generator="unet")
