"""What every generator and discriminator promises: shapes, gradients, precision, and images kept apart."""

from __future__ import annotations

import copy
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

from gantk.errors import UserError
from gantk.nets.kernels import CHANNELS_LAST
from gantk.plugin.spec import Part
from gantk.testing.small import SMALL, random_images, small_part, small_size


class NetworkContract:
    """Shared by generators and discriminators; a subclass says how one is built.

    `options` are the recipe's options of the network, `dims` the dimensions it works in, `sizes` the image sizes by
    dimension where 32 x 32 and 16 x 16 x 16 do not fit.
    """

    options: ClassVar[dict[str, Any] | None] = None  # None: the defaults, small where the network is one of gantk's own
    dims: ClassVar[tuple[int, ...]] = (2, 3)
    sizes: ClassVar[dict[int, tuple[int, ...]]] = {}

    @pytest.fixture(params=[2, 3], ids=["2d", "3d"], name="d")
    def _dims(self, request: pytest.FixtureRequest) -> int:
        if request.param not in self.dims:
            pytest.skip(f"works in {self.dims} dimensions")
        torch.manual_seed(0)
        return request.param

    def part(self, kind: str, name: str) -> Part:
        """The registered network with the contract's options."""
        return small_part(kind, name, SMALL.get(name, {}) if self.options is None else self.options)

    def build(self, inputs: int, dims: int) -> nn.Module:
        """A network for images of `inputs` channels, in training mode."""
        raise TypeError(f"{type(self).__name__} must name its network")

    def images(self, count: int, channels: int, dims: int) -> Tensor:
        return random_images(count, channels, self.sizes.get(dims, small_size(dims)))

    def test_every_parameter_gets_a_finite_gradient(self, d):
        network = self.build(2, d)
        network(self.images(2, 2, d)).float().square().sum().backward()
        for name, parameter in network.named_parameters():
            if not parameter.requires_grad:
                continue
            assert parameter.grad is not None, f"'{name}' takes no part in the output"
            assert torch.isfinite(parameter.grad).all(), f"the gradient of '{name}' is not finite"

    def test_an_image_influences_another_only_in_training_and_only_where_it_is_said(self, d):
        network = self.build(1, d)
        _compare_batch_and_singles(copy.deepcopy(network).eval(), self.images(3, 1, d))
        if not network.batch_independent:
            return
        for layer in network.modules():  # what it draws at random differs between two passes, rightly
            if isinstance(layer, nn.modules.dropout._DropoutNd):
                layer.eval()
        _compare_batch_and_singles(network, self.images(3, 1, d))

    def test_bf16_autocast_gives_finite_output_and_gradients(self, d):
        network = self.build(1, d)
        with torch.autocast("cpu", torch.bfloat16):
            output = network(self.images(2, 1, d))
        assert torch.isfinite(output.float()).all()
        output.float().square().mean().backward()
        assert all(torch.isfinite(p.grad).all() for p in network.parameters() if p.requires_grad)

    def test_memory_format_does_not_change_the_result(self, d):
        network, images = self.build(2, d).eval(), self.images(2, 2, d)
        with torch.no_grad():
            expected = network(images)
            network.to(memory_format=CHANNELS_LAST[d])
            found = network(images.to(memory_format=CHANNELS_LAST[d]))
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)

    def test_sizes_that_are_let_pass_can_be_taken(self, d):
        network = self.build(1, d)
        for side in (7, 16, 17, 20, 24):
            size = (side,) * d
            try:
                if hasattr(network, "check_size"):
                    network.check_size(size)
            except UserError as error:
                assert str(side) in str(error), "a refusal names the size that was given"
                continue
            with torch.no_grad():
                network(random_images(2, 1, size))

    def test_its_state_dict_is_all_of_it(self, d):
        network, images = self.build(1, d).eval(), self.images(1, 1, d)
        torch.manual_seed(1)
        other = self.build(1, d).eval()
        other.load_state_dict(network.state_dict())
        with torch.no_grad():
            assert torch.equal(other(images), network(images))


class GeneratorContract(NetworkContract):
    """Promises of a generator: images (N, C_in, *size) to images (N, C_out, *size), for any channel counts."""

    generator: ClassVar[str]

    def build(self, inputs: int, dims: int) -> nn.Module:
        return self.part("generator", self.generator)(inputs, inputs, dims)

    @pytest.mark.parametrize("channels", [(1, 1), (1, 3), (4, 2)], ids=["gray", "gray-to-rgb", "4-to-2"])
    def test_shape_is_kept_and_channels_are_as_asked(self, d, channels):
        inputs, outputs = channels
        network = self.part("generator", self.generator)(inputs, outputs, d)
        images = self.images(2, inputs, d)
        result = network(images)
        assert result.shape == (2, outputs, *images.shape[2:])
        assert torch.isfinite(result).all()

    def test_channels_last_images_come_out_channels_last(self, d):
        network = self.build(2, d).to(memory_format=CHANNELS_LAST[d])
        result = network(self.images(2, 2, d).to(memory_format=CHANNELS_LAST[d]))
        assert result.is_contiguous(memory_format=CHANNELS_LAST[d]), "some layer inside leaves channels-last"


class DiscriminatorContract(NetworkContract):
    """Promises of a discriminator: images (N, C, *size) to raw logits, (N, 1, *patches) or (N, 1)."""

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
                parameter.mul_(10)  # a sigmoid or tanh inside would hold the output to [-1, 1] still
            assert network(self.images(2, 1, d) * 100).abs().max() > 1.001

    def test_gradient_penalties_reach_the_weights(self, d):
        network, images = self.build(1, d), self.images(2, 1, d).requires_grad_()
        (gradient,) = torch.autograd.grad(network(images).sum(), images, create_graph=True)
        gradient.square().sum().backward()
        assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in network.parameters())


def _compare_batch_and_singles(network: nn.Module, images: Tensor) -> None:
    # Copies, because a pass in training may change what the network remembers, as spectral norm does.
    with torch.no_grad():
        together = copy.deepcopy(network)(images)
        singles = torch.cat([copy.deepcopy(network)(image) for image in images.split(1)])
    torch.testing.assert_close(together, singles, rtol=1e-3, atol=1e-4)
