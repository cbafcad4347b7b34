"""Uncertainty maps that are what they say."""

from __future__ import annotations

import re

import pytest
import torch
from torch import Tensor, nn

from gantk.errors import UserError
from gantk.inference.uncertainty import KINDS, Uncertain, dropping, uncertain


class Toy(nn.Module):
    """A two-way method of one weight a direction, with a dropout layer where asked."""

    def __init__(self, p: float = 0.0, kind: type[nn.Module] = nn.Dropout):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(2.0))
        self.drop = kind(p) if p else nn.Identity()
        self.both = True
        self.eval()

    def translate(self, image: Tensor, to: str) -> Tensor:
        return self.drop(image * self.scale if to == "b" else image / 3)

    def directions(self) -> list[str]:
        return ["b", "a"] if self.both else ["b"]


def images(*shape: int) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(1))


def maps(kind: str, toy: Toy, image: Tensor, **options):
    back = options.pop("back", lambda made: toy.translate(made, "a"))
    others = options.pop("others", ())
    return Uncertain(kind, **options).maps(lambda x: toy.translate(x, "b"), image, module=toy, back=back, others=others)


def slanted(image: Tensor) -> Tensor:
    """A network that goes wrong to the right: 0, 1, 2, ... along the columns."""
    return image + torch.arange(image.shape[-1], dtype=torch.float32)


def test_flips_find_what_depends_on_the_side():
    image = images(2, 1, 4, 5)
    plain, spread = Uncertain("flips", flips=["columns"]).maps(slanted, image, module=Toy())
    gaps = torch.tensor([4.0, 2, 0, 2, 4])  # of 0..4 and 4..0
    assert torch.equal(plain, slanted(image))
    assert torch.allclose(spread, (gaps / 2**0.5).expand_as(spread), atol=1e-5)
    _, spread = Uncertain("flips", flips=["rows"]).maps(slanted, image, module=Toy())
    assert torch.allclose(spread, torch.zeros(()), atol=1e-6)


@pytest.mark.parametrize("shape", [(2, 1, 6, 4), (2, 3, 6, 4), (1, 2, 5, 6, 4)])
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_gives_the_plain_translation_and_an_uncertainty_of_its_shape(kind, shape):
    toy, image = Toy(0.5), images(*shape)
    others = [{"scale": torch.tensor(3.0)}]
    plain, spread = maps(kind, toy, image, others=others)
    assert torch.equal(plain, toy.translate(image, "b")) and spread.shape == plain.shape
    assert spread.min() >= 0 and torch.isfinite(spread).all() and spread.dtype == torch.float32


@pytest.mark.parametrize("kind", KINDS)
def test_a_map_does_not_depend_on_the_batch_nor_touches_the_random_generator(kind):
    toy, image, others = Toy(0.5), images(5, 1, 6, 6), [{"scale": torch.tensor(3.0)}]
    before = torch.get_rng_state()
    whole = maps(kind, toy, image, others=others)[1]
    assert torch.equal(before, torch.get_rng_state())
    assert not toy.training and not toy.drop.training and not toy.drop._forward_hooks
    parts = torch.cat([maps(kind, toy, part, others=others)[1] for part in image.split(2)])
    assert torch.equal(whole, parts)


def test_dropout_is_the_spread_of_seeded_networks():
    toy, image = Toy(0.5), images(1, 1, 8, 8) + 0.5
    first, again = (maps("dropout", toy, image, seed=3)[1] for _ in range(2))
    other = maps("dropout", toy, image, seed=4)[1]
    assert torch.equal(first, again) and not torch.equal(first, other)
    many = maps("dropout", toy, image, passes=400)[1]  # a unit is 0 or doubled: its deviation is its own size
    assert torch.allclose(many / (2 * image), torch.ones(()), atol=0.02)


def test_channel_dropout_drops_whole_channels():
    toy, image = Toy(0.5, nn.Dropout2d), torch.ones(2, 16, 3, 3)
    with dropping(toy, torch.Generator().manual_seed(0)):
        found = toy.translate(image, "b")
    assert set(found.unique().tolist()) == {0.0, 4.0}
    assert torch.equal(found, found[:1, :, :1, :1].expand_as(found))


def test_checkpoints_are_weights_and_leave_the_method_as_it_was():
    toy, image = Toy(), images(2, 1, 4, 4)
    weights = [{"scale": torch.tensor(1.0)}, {"scale": torch.tensor(3.0)}]
    spread = maps("checkpoints", toy, image, others=weights)[1]
    assert toy.scale.item() == 2.0
    assert torch.allclose(spread, image, atol=1e-6)  # the deviation of x, 2x, 3x is x


def test_weights_come_back_after_a_failure():
    toy = Toy()
    with pytest.raises(RuntimeError):
        maps("checkpoints", toy, images(1, 1, 4, 4), others=[{"elsewhere": torch.ones(())}])
    assert toy.scale.item() == 2.0


def test_the_cycle_error_is_the_distance_from_the_way_there_and_back():
    toy, image = Toy(), images(2, 1, 4, 4)
    assert torch.allclose(maps("cycle", toy, image)[1], image / 3, atol=1e-6)  # 2 x / 3 against x
    _, spread = maps("cycle", toy, images(2, 3, 4, 4), back=lambda made: made[:, :3] * 0)
    assert spread.shape == (2, 3, 4, 4)
    plain, spread = Uncertain("cycle").maps(
        lambda x: x[:, :1], images(2, 2, 4, 4), module=toy, back=lambda made: made.expand(-1, 2, -1, -1)
    )
    assert plain.shape == spread.shape == (2, 1, 4, 4)


def test_auto_adds_the_cycle_to_the_flips_where_there_is_a_way_back():
    image, module = images(2, 1, 4, 5), Toy()
    flips = Uncertain("flips").maps(slanted, image, module=module)[1]
    cycle = Uncertain("cycle").maps(slanted, image, module=module, back=torch.zeros_like)[1]
    assert torch.equal(Uncertain().maps(slanted, image, module=module)[1], flips)
    assert torch.equal(Uncertain().maps(slanted, image, module=module, back=torch.zeros_like)[1], flips + cycle)
    assert [Uncertain().chosen(back=back) for back in (True, False)] == ["flips+cycle", "flips"]


def test_a_method_gives_translation_and_uncertainty_side_by_side():
    toy, image = Toy(), images(2, 1, 4, 4)
    for to, both, expected in (("b", True, image / 3), ("b", False, 0 * image), ("a", True, image / 3)):
        toy.both = both
        made, spread = uncertain(toy, to, Uncertain("auto"))(image).chunk(2, dim=1)
        assert torch.equal(made, toy.translate(image, to)) and torch.allclose(spread, expected, atol=1e-6)


@pytest.mark.parametrize(
    "kind, options, words",
    [
        ("dropout", {}, "no dropout.*flips, checkpoints or cycle"),
        ("checkpoints", {}, "single checkpoint.*train.keep"),
        ("cycle", {"back": None}, "no way back.*flips or checkpoints"),
        ("flips", {"flips": ["planes"]}, "no planes"),
    ],
)
def test_a_kind_that_cannot_be_had_names_those_that_can(kind, options, words):
    with pytest.raises(UserError) as caught:
        maps(kind, Toy(), images(1, 1, 4, 4), **options)
    assert re.search(words, str(caught.value))


def test_what_cannot_be_had_is_known_before_a_training():
    toy = Toy()
    toy.both = False
    for kind, words in (("dropout", "no dropout"), ("cycle", "no way back"), ("checkpoints", "single checkpoint")):
        with pytest.raises(UserError, match=words):
            Uncertain(kind).check(toy, checkpoints=1)
    for kind in ("auto", "flips"):
        Uncertain(kind).check(toy, checkpoints=1)
    for kind in KINDS:
        Uncertain(kind).check(Toy(0.5), checkpoints=2)


def test_wrong_options_are_named():
    for options, words in (
        ({"kind": "flip"}, "Did you mean 'flips'"),
        ({"passes": 1}, "2 or more"),
        ({"flips": ["left"]}, "columns, rows, planes"),
        ({"flips": []}, "columns"),
    ):
        with pytest.raises(UserError, match=words):
            Uncertain(**options)
