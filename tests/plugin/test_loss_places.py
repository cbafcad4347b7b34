"""Every registered loss in every option that takes one: it trains a step, or it is refused by name
before any data is read.
"""

import sys
from typing import get_args

import pytest
import torch
from method_options import METHODS, UNET
from tiny import parts_with_options

from gantk import registry
from gantk.errors import UserError
from gantk.plugin.loss_inputs import loss_inputs
from gantk.plugin.spec import Kind, bind, options_of
from gantk.testing import MethodContract

INSTANCE_NORM = {"name": "dcgan", **UNET, "norm": "instance"}
# what makes a method compute the loss of an option
NEEDED = {
    ("dualgan", "identity_loss"): {"identity": 1.0},
    ("vae", "adversarial"): {"gan": 0.1},
    ("dcgan", "adversarial"): {"discriminator": INSTANCE_NORM},  # for the gradient penalty
}


def mark_of(hint) -> Kind | None:
    """The Kind in an option's type, also inside a list or an optional."""
    for mark in getattr(hint, "__metadata__", ()):
        if isinstance(mark, Kind):
            return mark
    return next(filter(None, map(mark_of, get_args(hint))), None)


def find_places() -> dict[str, tuple]:
    """`kind name option` -> (kind, name, option, mark, whether it is a list)."""
    places = {}
    for entry in parts_with_options():
        for option, hint, default in options_of(entry.load()):
            mark = mark_of(hint)
            if mark is not None and mark.kind == "loss":
                place = (entry.kind, entry.name, option, mark, isinstance(default, list))
                places[f"{entry.kind} {entry.name} {option}"] = place
    return places


PLACES = find_places()
TRAINED = {
    key: place
    for key, place in PLACES.items()
    if place[0] == "method" and place[3].takes != "matches"  # matched before a training
}


def given(place: tuple, *losses: object) -> dict:
    """The place's options with these losses, of a small part."""
    kind, name, option, _, is_list = place
    small = METHODS.get(name, [{}])[0] if kind == "method" else {}
    value = list(losses) if is_list else losses[0]
    return small | NEEDED.get((name, option), {}) | {option: value}


def train_one_step(place: tuple, *losses: object) -> dict[str, torch.Tensor]:
    body = {"method": place[1], "options": given(place, *losses)}
    contract = type("Place", (MethodContract,), body)()
    method = contract.build(2)
    return contract.train(contract.engine(method, steps=1), until=1)


@pytest.mark.parametrize("key", PLACES)
def test_a_loss_that_does_not_fit_is_refused_by_name(key):
    kind, name, _, mark, _ = place = PLACES[key]
    fitting = [
        entry.name
        for entry in registry().of_kind("loss")
        if mark.takes in loss_inputs(entry.load())
    ]
    others = set(registry()["loss"]).difference(fitting)

    assert fitting
    assert others
    for loss in others:
        with pytest.raises(UserError) as raised:
            bind(kind, {"name": name} | given(place, loss))
        assert f"the loss '{loss}' takes" in str(raised.value)
        assert "this key needs a loss of" in str(raised.value)
        assert raised.value.allowed == ", ".join(fitting)


SPIES = """
from gantk import hookimpl

CALLS = []

@hookimpl
def gantk_register(add):
    for kind in ("images", "source", "features"):
        add.loss(f"spy_{kind}", f"gantk_spies:{kind.title()}")
    add.loss("spy_logits", "gantk_spies:Logits")
    add.loss("wrong", "gantk_spies:Wrong")
    add.loss("unsaid", "gantk_spies:Unsaid")

class Images:
    takes = "images"
    def __call__(self, output, target):
        CALLS.append("images")
        return (output.float() - target.float()).square().mean()

class Source(Images):
    takes = "source"

class Features(Images):
    takes = "features"
    def __call__(self, output, target):
        CALLS.append("features")
        return sum((x.mean() - y.mean()).square() for x, y in zip(output, target, strict=True))

class Logits:
    def generator(self, fake):
        CALLS.append("logits")
        return -fake.mean()
    def discriminator(self, real, fake):
        return (fake - real).mean()
    def penalty(self, discriminator, real, fake):
        return None

class Wrong(Images):
    takes = "pictures"

class Unsaid:
    def __call__(self, output, target):
        return (output.float().mean() - target.float().mean()).abs()
"""


@pytest.fixture
def spies(add_plugin):
    add_plugin("my-package", "gantk_spies", SPIES)
    registry().get("loss", "spy_images").load()
    return sys.modules["gantk_spies"].CALLS


@pytest.mark.parametrize("key", TRAINED)
def test_the_named_loss_is_the_one_that_is_minimised(key, spies):
    place = TRAINED[key]
    train_one_step(place, f"spy_{place[3].takes}")

    assert spies


# ---- two-way methods: which losses, with which weight


@pytest.mark.parametrize("name", ["cyclegan", "dualgan"])
def test_replaced_cycle_losses_keep_their_weights(name):
    def losses(**options):
        body = {"method": name, "options": {"identity": 3.0} | options}
        contract = type("Method", (MethodContract,), body)()
        method = contract.build(2)
        found = method.generator_losses(contract.batch_at(method, 0))
        return {key: float(value.detach()) for key, value in found.items()}

    plain = losses()
    named = losses(cycle_loss="l1", identity_loss={"name": "identity", "norm": "l1"})
    squares = losses(cycle_loss="l2", identity_loss="l2")
    doubled = losses(cycle_loss="l2", identity_loss="l2", cycle=20.0)
    like = losses(cycle_loss="ssim")

    assert plain == named
    changed = {key for key in plain if plain[key] != squares[key]}
    assert changed == {"cycle_a", "cycle_b", "identity_a", "identity_b"}
    assert doubled["cycle_a"] == pytest.approx(2 * squares["cycle_a"])
    assert doubled["identity_a"] == squares["identity_a"]
    assert like["cycle_a"] != plain["cycle_a"]
    assert like["identity_a"] == plain["identity_a"]


def test_a_cycle_loss_without_pixel_weights_refuses_lesions(spies):
    body = {"method": "cyclegan", "options": {"lesion": 4.0, "cycle_loss": "spy_images"}}
    with pytest.raises(UserError, match="'spy_images' takes no `weight`.*method.lesion"):
        type("Method", (MethodContract,), body)().build(2)
    body["options"]["cycle_loss"] = "ssim"
    type("Method", (MethodContract,), body)().build(2)
