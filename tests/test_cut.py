"""CUT (Park et al. 2020): the contrastive loss against a plain formula, and what trains with what."""

from __future__ import annotations

import pytest
import torch

from gantk.errors import UserError
from gantk.method import Batch, Geometry
from gantk.plugin.spec import bind, bind_or_raise
from gantk_cut.model import feature_channels
from gantk_cut.patchnce import PatchNCE

SMALL = {
    "generator": {"name": "resnet", "width": 4, "blocks": 2},
    "discriminator": {"name": "patchgan", "width": 4, "layers": 3},
    "width": 8,
    "patches": 16,
}
SIZES = {2: (16, 16), 3: (8, 8, 8)}


def build(dims: int = 2, channels: tuple[int, int] = (1, 1), **options):
    torch.manual_seed(0)
    geometry = Geometry(dims, SIZES[dims], dict(zip(("a", "b"), channels, strict=True)))
    discriminator = SMALL["discriminator"] | {"layers": 3}
    return bind_or_raise("method", {"name": "cut"} | SMALL | {"discriminator": discriminator} | options)(geometry)


def images(dims: int = 2, count: int = 2) -> Batch:
    generator = torch.Generator().manual_seed(1)
    size = (16,) * dims
    return Batch({name: torch.rand(count, 1, *size, generator=generator) * 2 - 1 for name in ("a", "b")})


def unit(shape: tuple[int, ...], seed: int = 0) -> torch.Tensor:
    return torch.nn.functional.normalize(torch.randn(shape, generator=torch.Generator().manual_seed(seed)), dim=-1)


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


def test_losses_are_those_of_the_paper_and_of_its_fast_form():
    batch = images()
    assert set(build().generator_losses(Batch(batch))) == {"adversarial", "nce", "nce_identity"}
    assert set(build(nce_identity=False, nce=10.0).generator_losses(Batch(batch))) == {"adversarial", "nce"}
    more = build(local_ncc=1.0, flat_region=1.0, nce=0.0).generator_losses(Batch(batch))
    assert set(more) == {"adversarial", "local_ncc", "flat_region"}


@pytest.mark.parametrize("name", ["unet", "resnet", "attention_unet"])
def test_heads_fit_the_maps_of_every_generator_that_shows_them(name):
    part = bind("generator", {"name": name, "width": 4})
    network = part(1, 1, 2)
    found = feature_channels(network, 1, (32, 32))
    assert found == [each.shape[1] for each in network.features(torch.rand(1, 1, 32, 32))]
    assert next(network.parameters()).device.type == "cpu"


def test_only_one_direction_can_be_made():
    method = build()
    assert method.directions() == ["b"]
    assert method.translate(images()["a"], "b").shape == (2, 1, 16, 16)
    with pytest.raises(UserError, match=r"a to b only.*cyclegan"):
        method.translate(images()["a"], "a")


def test_what_cannot_work_is_refused_with_the_way_out():
    with pytest.raises(UserError, match=r"1 and 3 channels.*cyclegan"):
        build(channels=(1, 3))
    with pytest.raises(UserError, match=r"layers = \[0, 9\].*0 \(the image\) to 5"):
        build(layers=[0, 9])


def test_a_generator_that_does_not_show_its_maps_is_refused_and_others_are_named(monkeypatch):
    from gantk.nets.unet import UNet

    monkeypatch.delattr(UNet, "features")
    with pytest.raises(UserError, match=r"the generator 'unet' cannot be used here.*resnet"):
        bind_or_raise("method", {"name": "cut", "generator": "unet"})
