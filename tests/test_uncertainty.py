"""Uncertainty maps that are what they say."""

from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from gantk.errors import UserError
from gantk.inference.tiles import AnySize
from gantk.machine.runtime import start
from gantk.nets.unet import UNet
from gantk.plugin.loader import registry
from gantk_uncertainty.maps import dropping


class Toy(nn.Module):
    """A method of one weight, two-way unless told, with a dropout layer where asked."""

    def __init__(self, p: float = 0.0, kind: type[nn.Module] = nn.Dropout, both: bool = True):
        super().__init__()
        self.scale, self.both = nn.Parameter(torch.tensor(2.0)), both
        self.drop, self.geometry = kind(p) if p else nn.Identity(), SimpleNamespace(range=(0.0, 1.0))
        self.eval()

    def translate(self, image: Tensor, to: str) -> Tensor:
        return self.drop(image * self.scale if to == "b" else image / 3)

    def directions(self) -> list[str]:
        return ["b", "a"] if self.both else ["b"]


class Slanted(Toy):
    """A network that goes wrong to the right: 0, 1, 2, ... along the columns."""

    def translate(self, image: Tensor, to: str) -> Tensor:
        return image + torch.arange(image.shape[-1], dtype=torch.float32) if to == "b" else 0 * image


def images(*shape: int) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(1))


def maps(kind: str, toy: Toy, image: Tensor, *, seed: int = 0, others=()) -> tuple[Tensor, Tensor]:
    return registry().get("uncertainty", kind).load()(seed=seed).maps(toy, "b", image, others)


@pytest.mark.parametrize("shape", [(5, 1, 6, 4), (5, 3, 6, 4), (3, 2, 5, 6, 4)], ids=str)
@pytest.mark.parametrize("kind", sorted({*registry().names("uncertainty")} - {"members"}))
def test_every_kind_gives_the_plain_translation_and_an_uncertainty_whatever_the_batch(kind, shape):
    toy, image, others = Toy(0.5), images(*shape), [{"scale": torch.tensor(3.0)}]
    before = torch.get_rng_state()
    plain, spread = maps(kind, toy, image, others=others)
    assert torch.equal(before, torch.get_rng_state())
    assert not toy.training and not toy.drop.training and not toy.drop._forward_hooks
    assert torch.equal(plain, toy.translate(image, "b")) and spread.shape == plain.shape
    assert spread.min() >= 0 and torch.isfinite(spread).all() and spread.dtype == torch.float32
    parts = [maps(kind, toy, part, others=others) for part in image.split(2)]
    assert all(map(torch.equal, (plain, spread), map(torch.cat, zip(*parts, strict=True))))


@pytest.mark.parametrize("kind", ["flips", "cycle", "checkpoints"])
def test_maps_of_tiled_images_are_those_of_whole_images(kind, monkeypatch):
    monkeypatch.setattr("gantk.inference.tiles.TOO_OFTEN", 20)
    method, image, runtime = Toy(), images(1, 1, 44, 70), start("cpu", "fp32")
    method.g, method.geometry = UNet(1, 1, 2, width=4, depth=2).requires_grad_(False), SimpleNamespace(size=(32, 32))
    method.translate = lambda image, to: method.eval().g(image)
    for part in method.g.parameters():
        part.normal_(0, 0.3, generator=torch.Generator().manual_seed(0))
    others, found = [{name: 1.3 * weight for name, weight in method.state_dict().items()}], []
    for memory in (1e-9, 1.0):
        table = SimpleNamespace(statistics="image", overlap=0.25, batch=4, memory=memory)
        model = SimpleNamespace(translate=table, data=SimpleNamespace(dims=2))
        found.append(maps(kind, AnySize(method, model, runtime), image, others=others))
    for tiled, whole in zip(*found, strict=True):
        assert torch.allclose(tiled, whole, atol=1e-4)
    assert found[0][1].std() > 0.01


def test_kinds_are_the_formulas_they_say():
    image = images(2, 1, 4, 5)
    there = torch.arange(5.0)
    members = torch.stack([there, there, there.flip(0), there.flip(0)])  # columns are mirrored in two of four
    flips, cycle, one_way = maps("flips", Slanted(), image)[1], maps("cycle", Slanted(), image)[1], Slanted(both=False)
    assert torch.allclose(flips, members.std(0).expand_as(flips), atol=1e-5)
    assert torch.allclose(maps("cycle", Toy(), image)[1], image / 3, atol=1e-6)  # 2 x / 3 against x
    means = [(each.unfold(2, 3, 1).unfold(3, 3, 1)).mean((-1, -2)) for each in (flips, flips + cycle)]
    found = [maps("auto", toy, image)[1][..., 1:-1, 1:-1] for toy in (one_way, Slanted())]  # the border has fewer
    assert all(map(torch.allclose, found, means))


def test_dropout_is_the_spread_of_seeded_networks_that_drop_whole_channels_where_theirs_do(monkeypatch):
    toy, image = Toy(0.5), images(1, 1, 8, 8) + 0.5
    first, again, other = (maps("dropout", toy, image, seed=seed)[1] for seed in (3, 3, 4))
    assert torch.equal(first, again) and not torch.equal(first, other)
    monkeypatch.setattr("gantk_uncertainty.maps.PASSES", 400)
    many = maps("dropout", toy, image)[1]  # a unit is 0 or doubled: its deviation is its own size
    assert torch.allclose(many / (2 * image), torch.ones(()), atol=0.02)
    toy = Toy(0.5, nn.Dropout2d)
    with dropping(toy, torch.Generator().manual_seed(0)):
        found = toy.translate(torch.ones(2, 16, 3, 3), "b")
    assert set(found.unique().tolist()) == {0.0, 4.0}
    assert torch.equal(found, found[:1, :, :1, :1].expand_as(found))


def test_checkpoints_are_weights_and_leave_the_method_as_it_was():
    toy, image = Toy(), images(2, 1, 4, 4)
    weights = [{"scale": torch.tensor(1.0)}, {"scale": torch.tensor(3.0)}]
    assert torch.allclose(maps("checkpoints", toy, image, others=weights)[1], image, atol=1e-6)  # of x, 2x, 3x it is x
    with pytest.raises(RuntimeError):
        maps("checkpoints", toy, image, others=[{"elsewhere": torch.ones(())}])
    assert toy.scale.item() == 2.0


@pytest.mark.parametrize(("kind", "words"), [("dropout", "Choose flips"), ("cycle", "way"), ("checkpoints", "keep")])
def test_a_kind_that_cannot_be_had_says_what_it_needs(kind, words):
    with pytest.raises(UserError, match=words):
        maps(kind, Toy(both=False), images(1, 1, 4, 4))
