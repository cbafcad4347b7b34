"""Contract tests of generators, discriminators and losses: shapes, gradients, precision, and
independence of the images of a batch.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

from gantk.errors import UserError
from gantk.machine.device import CHANNELS_LAST
from gantk.plugin.loader import registry
from gantk.plugin.loss_inputs import loss_inputs
from gantk.plugin.spec import Part, bind
from gantk.testing.small import Contract, random_images, small_part, small_size

BATCH_INDEPENDENT = """{0} does not declare whether its images of a batch are independent. Add to the class one of:
    batch_independent = True   # instance or group norm, or none
    batch_independent = False  # batch norm, or any other layer that combines images
or derive it from gantk.nets.blocks.Network, which detects this."""
MIXED = """An image changes the output of {0} for other images of its batch, {1}. Use norm("instance", channels, dims)
from gantk.nets.blocks instead of batch norm; or, if this is intended in training, declare it:
    batch_independent = False"""
CHECK_SIZE = """{0} fails on images of {1} pixels per side, but does not refuse them. Support this size, or add:
    def check_size(self, size):
        require_size(size, 8, 16, type(self).__name__, "choose another network")  # from gantk.nets.blocks
with the number that sides must be a multiple of, and with the smallest side."""
FLOAT32 = """The loss is {0}. A loss must be float32 for any precision of the networks: begin __call__ with
    output, target = output.float(), target.float()"""
TAKES = """{0} does not say what it is called with. Add to the class one of:
    takes = "images"    # __call__(output, target): images of one domain
    takes = "source"    # __call__(output, source): images of two domains
    takes = "features"  # __call__(output, target): lists of feature maps
    takes = "logits"    # generator(fake) and discriminator(real, fake)"""
EQUAL_COSTS_LEAST = """{0} costs more for equal images than for different ones. If it compares an output with its
input, whose contrast differs, declare it:
    takes = "source\""""


@contextmanager
def explain_failure(words: str) -> Iterator[None]:
    """Turn an exception inside the context into a test failure with these words and the exception's
    text.
    """
    try:
        yield
    except Exception as error:
        pytest.fail(f"{words}\n({type(error).__name__}: {error})")


class NetworkContract(Contract):
    """Tests that generators and discriminators share. A subclass defines `build`.

    Attributes:
        options: options of the network. Without them it has its defaults; gantk's own networks have
            small ones.
    """

    def part(self, kind: str, name: str) -> Part:
        """The registered network with the contract's options."""
        small = registry().get(kind, name).small
        return small_part(kind, name, {**small} if self.options is None else self.options)

    def build(self, inputs: int, dims: int) -> nn.Module:
        """Build a network for images of `inputs` channels, in training mode."""
        raise TypeError(
            f"{type(self).__name__} must set `generator` or `discriminator` to the name of its"
            " network"
        )

    def images(self, count: int, channels: int, dims: int) -> Tensor:
        return random_images(count, channels, self.size(dims))

    def test_every_parameter_gets_a_finite_gradient(self, d):
        network = self.build(2, d)
        network(self.images(2, 2, d)).float().square().sum().backward()
        for name, parameter in network.named_parameters():
            if parameter.requires_grad:
                assert parameter.grad is not None, f"'{name}' has no influence on the output"
                assert torch.isfinite(parameter.grad).all(), (
                    f"the gradient of '{name}' is not finite"
                )

    def test_an_image_influences_another_only_in_training_and_only_where_it_is_said(self, d):
        network = self.build(1, d)
        said = getattr(network, "batch_independent", None)
        assert said is not None, BATCH_INDEPENDENT.format(type(network).__name__)
        _compare_batch_and_singles(copy.deepcopy(network).eval(), self.images(3, 1, d))
        if said:
            for layer in network.modules():  # dropout differs between two passes
                if isinstance(layer, nn.modules.dropout._DropoutNd):
                    layer.eval()
            _compare_batch_and_singles(network, self.images(3, 1, d))

    def test_memory_format_does_not_change_the_result(self, d):
        network = self.build(2, d).eval()
        images = self.images(2, 2, d)
        with torch.no_grad():
            expected = network(images)
            # torch's stubs lack this signature
            network.to(memory_format=CHANNELS_LAST[d])  # type: ignore[call-overload]
            found = network(images.to(memory_format=CHANNELS_LAST[d]))
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)

    def test_sizes_that_are_let_pass_can_be_taken(self, d):
        network = self.build(1, d)
        for side in (7, 16, 17, 20, 24):
            try:
                check = getattr(network, "check_size", None)
                if check is not None:
                    check((side,) * d)
            except UserError as error:
                assert str(side) in str(error), "the error of check_size must name the given size"
                continue

            with torch.no_grad(), explain_failure(CHECK_SIZE.format(type(network).__name__, side)):
                output = network(random_images(2, 1, (side,) * d))
                if hasattr(self, "generator"):
                    assert output.shape[2:] == (side,) * d, (
                        f"the output has size {tuple(output.shape[2:])}"
                    )

    def test_its_state_dict_is_all_of_it(self, d):
        network = self.build(1, d).eval()
        images = self.images(1, 1, d)
        torch.manual_seed(1)
        other = self.build(1, d).eval()
        other.load_state_dict(network.state_dict())
        with torch.no_grad():
            same = torch.equal(other(images), network(images))

        assert same, (
            "state_dict() is incomplete: keep all values that __init__ draws or counts in"
            " self.register_buffer(name, tensor)"
        )


class GeneratorContract(NetworkContract):
    """Tests of a generator: images (N, C_in, *size) to images (N, C_out, *size), for different
    numbers of channels.
    """

    generator: ClassVar[str]

    def build(self, inputs: int, dims: int) -> nn.Module:
        return self.part("generator", self.generator)(inputs, inputs, dims)

    @pytest.mark.parametrize(
        "channels", [(1, 1), (1, 3), (4, 2)], ids=["gray", "gray-to-rgb", "4-to-2"]
    )
    def test_shape_is_kept_and_channels_are_as_asked(self, d, channels):
        inputs, outputs = channels
        images = self.images(2, inputs, d)
        result = self.part("generator", self.generator)(inputs, outputs, d)(images)
        assert result.shape == (2, outputs, *images.shape[2:])
        assert torch.isfinite(result).all()


class DiscriminatorContract(NetworkContract):
    """Tests of a discriminator: images (N, C, *size) to raw logits, (N, 1, *patches) or (N, 1)."""

    discriminator: ClassVar[str]

    def build(self, inputs: int, dims: int) -> nn.Module:
        return self.part("discriminator", self.discriminator)(inputs, dims)

    def test_logits_are_one_map_or_one_number_an_image(self, d):
        logits = self.build(3, d)(self.images(2, 3, d))
        assert logits.shape[:2] == (2, 1)
        assert logits.ndim in (2, d + 2)

    def test_logits_are_not_squashed(self, d):
        network = self.build(1, d).eval()
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.mul_(10)  # a sigmoid or tanh would still limit the output to [-1, 1]
            largest = network(self.images(2, 1, d) * 100).abs().max()
        assert largest > 1.001, (
            "logits must be raw: remove the sigmoid or tanh at the end, because the loss"
            " applies its own"
        )

    def test_gradient_penalties_reach_the_weights(self, d):
        network = self.build(1, d)
        images = self.images(2, 1, d).requires_grad_()
        (gradient,) = torch.autograd.grad(network(images).sum(), images, create_graph=True)
        gradient.square().sum().backward()
        gradients = [p.grad for p in network.parameters() if p.grad is not None]
        assert any(gradient.abs().sum() > 0 for gradient in gradients)  # false for NaN


def _compare_batch_and_singles(network: nn.Module, images: Tensor) -> None:
    # Copies, because a forward pass in training may change buffers, such as those of spectral norm.
    with torch.no_grad():
        whole = copy.deepcopy(network)(images)
        singles = torch.cat([copy.deepcopy(network)(image) for image in images.split(1)])

    where = "in training" if network.training else "in evaluation, where this is not allowed"
    mixed = MIXED.format(type(network).__name__, where)
    torch.testing.assert_close(
        whole, singles, rtol=1e-3, atol=1e-4, msg=lambda found: f"{mixed}\n{found}"
    )


class LossContract(Contract):
    """Tests of a loss, by its attribute `takes`: two batches of images ("images", "source"), lists
    of feature maps ("features"), or logits ("logits"): `gantk.plugin.loss_inputs`.

    Override `inputs`, which returns (output, target), for a loss of other inputs.
    """

    loss: ClassVar[str]

    def part(self) -> Part:
        return bind("loss", {"name": self.loss} | (self.options or {}))

    def inputs(self, dims: int) -> tuple[Any, Any]:
        """An output and its target: two different batches of images, or two maps of each."""
        size = small_size(dims)
        if "features" in self.takes():
            output = [random_images(2, 3, size, seed=seed) for seed in (1, 2)]
            target = [random_images(2, 3, size, seed=seed) for seed in (3, 4)]
            return output, target
        return random_images(2, 1, size, seed=1), random_images(2, 1, size, seed=2)

    def takes(self) -> tuple[str, ...]:
        """What the loss is called with."""
        return loss_inputs(self.part().target)

    def test_it_says_what_it_takes(self):
        with explain_failure(TAKES.format(self.loss)):
            taken = self.takes()
        assert taken, TAKES.format(self.loss)

    def test_equal_images_cost_least(self, d):
        if not {"images", "features"}.intersection(self.takes()):
            pytest.skip("does not compare an output with its target")

        loss = self.part()()
        output, target = self.inputs(d)
        (equal,), (different,) = (self._values(loss, each, target) for each in (target, output))
        assert equal <= different + 1e-6, EQUAL_COSTS_LEAST.format(self.loss)

    def test_value_is_one_finite_float32_number(self, d):
        loss = self.part()()
        output, target = self.inputs(d)
        for dtype in (torch.float32, torch.bfloat16):
            cast = _map(output, partial(torch.Tensor.to, dtype=dtype))
            for value in self._values(loss, cast, target):
                assert value.dtype == torch.float32, FLOAT32.format(value.dtype)
                assert torch.isfinite(value)

    def test_gradient_reaches_the_output_and_is_finite(self, d):
        loss = self.part()()
        output, target = self.inputs(d)
        output = _map(output, lambda t: t.clone().requires_grad_())
        for value in self._values(loss, output, target):
            for gradient in torch.autograd.grad(value, output):
                assert torch.isfinite(gradient).all()
                assert gradient.abs().sum() > 0

    def test_discriminator_gains_by_telling_apart_and_generator_by_fooling(self):
        loss = self.part()()
        if not hasattr(loss, "discriminator"):
            pytest.skip("not an adversarial loss")
        high = torch.full((4, 1), 2.0)
        low = torch.full((4, 1), -2.0)
        assert loss.discriminator(high, low) < loss.discriminator(low, high)
        assert loss.generator(high * 0.5) < loss.generator(low * 0.5)

    @staticmethod
    def _values(loss: Any, output: Any, target: Any) -> list[Tensor]:
        """The loss's value; for an adversarial loss the generator's and the discriminator's
        (`output`: fake logits).
        """
        if hasattr(loss, "discriminator"):
            values = [loss.generator(output), loss.discriminator(target, output)]
        else:
            values = [loss(output, target)]
        for value in values:
            assert value.shape == (), (
                f"a loss returns one number, not {tuple(value.shape)}: .mean()"
            )
        return values


def _map(value: Any, change: Any) -> Any:
    return change(value) if isinstance(value, Tensor) else [change(item) for item in value]
