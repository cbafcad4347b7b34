"""Activation checkpointing: the same training to the bit, with less to remember, for every method."""

from __future__ import annotations

import copy

import pytest
import torch
from test_contracts import METHODS
from torch import nn

from gantk.errors import GantkError
from gantk.inference.receptive_field import Memory
from gantk.machine.runtime import start
from gantk.method import Batch, Geometry, Method, Phase
from gantk.nets.resnet import ResNet
from gantk.nets.unet import UNet
from gantk.plugin.loader import registry
from gantk.recipe.load import load_recipe
from gantk.testing import MethodContract
from gantk.testing.small import random_images
from gantk.training.accelerate.recompute import recompute
from gantk.training.assemble import assemble

CASES = [(name, len(METHODS.get(name, [{}])) - 1) for name in registry().names("method")]
DROPPED = ("pix2pix", {"generator": {"name": "unet", "width": 4, "depth": 3, "norm": "batch", "dropout": 0.5},
                       "discriminator": {"name": "patchgan", "width": 4, "layers": 3, "spectral": True}})  # fmt: skip


def contract(name: str, options: dict) -> MethodContract:
    found = MethodContract()
    found.method, found.options = name, options
    found.classes = ("healthy", "tumour") if options.get("conditional") else ()
    return found


def trained(tools: MethodContract, *, on: bool, precision: str = "fp32", microbatch: int | None = None, dims: int = 2):
    """The engine after three steps, and the losses of the last."""
    method = tools.build(dims)
    engine = tools.engine(recompute(method) if on else method, precision=precision, microbatch=microbatch, steps=3)
    return engine, tools.train(engine, until=3)


def assert_same(tools: MethodContract, **options) -> None:
    (plain, expected), (other, found) = (trained(tools, on=on, **options) for on in (False, True))
    assert {name: float(loss) for name, loss in found.items()} == {name: float(loss) for name, loss in expected.items()}
    states = plain.method.state_dict(), other.method.state_dict()
    assert states[0].keys() == states[1].keys()
    different = [name for name, tensor in states[0].items() if not torch.equal(tensor, states[1][name])]
    assert not different, f"{len(different)} tensors differ, '{different[0]}' among them"


@pytest.mark.parametrize(("name", "number"), CASES)
def test_a_training_is_the_same_to_the_bit(name, number):
    assert_same(contract(name, METHODS.get(name, [{}])[number]), precision="bf16")


@pytest.mark.parametrize("options", [{"precision": "fp32"}, {"microbatch": 1}, {"dims": 3}], ids=str)
def test_dropout_batch_and_spectral_norm_do_what_they_did_the_first_time(options):
    assert_same(contract(*DROPPED), **options)


def kept(network: nn.Module, image: torch.Tensor, on: bool) -> tuple[int, list[torch.Tensor]]:
    """Bytes that wait for the backward pass, and the gradients."""
    network = copy.deepcopy(network)
    if on:
        recompute(Lone(network))
    with Memory() as memory:
        loss = network(image).square().mean()
        waiting = sum(memory._held.values())
        loss.backward()
    return waiting, [parameter.grad for parameter in network.parameters()]


class Lone(Method):
    """A method of one network."""

    reads = ("image",)

    def __init__(self, network: nn.Module):
        super().__init__(Geometry(2, (32, 32), {"image": 4}))
        self.network = network

    def phases(self) -> list[Phase]:
        return [Phase("only", (self.network,), self.losses)]

    def losses(self, batch: Batch) -> dict[str, torch.Tensor]:
        return {"square": self.network(batch["image"]).square().mean()}


@pytest.mark.parametrize(
    ("network", "share"),
    [(ResNet(1, 1, 2, width=8, blocks=6), 0.45), (UNet(1, 1, 2, width=8, depth=4), 0.8)],
    ids=["resnet", "unet"],
)
def test_less_waits_for_the_backward_pass(network, share):
    image = random_images(1, 1, (64, 64))
    plain, expected = kept(network, image, on=False)
    less, found = kept(network, image, on=True)
    assert less < share * plain
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def blocks(network: nn.Module) -> nn.Module:
    recompute(Lone(network))
    return network


def test_a_block_that_changes_its_input_stops_with_a_remedy():
    class Hasty(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two = nn.Conv2d(4, 4, 3), nn.Conv2d(4, 4, 3)

        def forward(self, x):
            return self.two(self.one(x.relu_()))

    with pytest.raises(GantkError, match=r"Hasty changes its input in place.*Set train.recompute = false\."):
        blocks(Hasty())(random_images(1, 4, (16, 16)) * 2)


def test_a_recipe_switches_it_on_and_nothing_is_compiled_then(tiny_recipe):
    for on in (False, True):
        settings = [f"train.recompute={str(on).lower()}", f"train.fast.compile={str(on).lower()}"]
        engine = assemble(load_recipe(tiny_recipe).override(settings).check(), start("cpu", "fp32")).engine
        assert any("forward" in module.__dict__ for module in engine.method.modules()) is on
        assert [note.split(":")[0] for note in engine.notes] == (["train.fast.compile"] if on else [])
