"""What every loss promises: one finite number in float32 whatever the precision, and a gradient that points home."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from gantk.plugin.spec import Part, bind_or_raise
from gantk.testing.small import random_images, small_size


class LossContract:
    """Promises of a loss of two images, or of an adversarial loss (one with `generator` and `discriminator`).

    `inputs` may be overridden for a loss of something other than two images; it returns (output, target).
    """

    loss: ClassVar[str]
    options: ClassVar[dict[str, Any]] = {}

    @pytest.fixture(params=[2, 3], ids=["2d", "3d"], name="d")
    def _dims(self, request: pytest.FixtureRequest) -> int:
        return request.param

    def part(self) -> Part:
        return bind_or_raise("loss", {"name": self.loss} | self.options)

    def inputs(self, dims: int) -> tuple[Any, Any]:
        """An output and its target: two different batches of images."""
        size = small_size(dims)
        return random_images(2, 1, size, seed=1), random_images(2, 1, size, seed=2)

    def test_value_is_one_finite_float32_number(self, d):
        loss, (output, target) = self.part()(), self.inputs(d)
        for dtype in (torch.float32, torch.bfloat16):
            for value in self._values(loss, _map(output, lambda t, dtype=dtype: t.to(dtype)), target):
                assert value.shape == ()
                assert value.dtype == torch.float32
                assert torch.isfinite(value)

    def test_gradient_reaches_the_output_and_is_finite(self, d):
        loss, (output, target) = self.part()(), self.inputs(d)
        output = _map(output, lambda t: t.clone().requires_grad_())
        for value in self._values(loss, output, target):
            for gradient in torch.autograd.grad(value, _tensors(output)):
                assert torch.isfinite(gradient).all()
                assert gradient.abs().sum() > 0

    def test_discriminator_gains_by_telling_apart_and_generator_by_fooling(self):
        loss = self.part()()
        if not hasattr(loss, "discriminator"):
            pytest.skip("not an adversarial loss")
        high, low = torch.full((4, 1), 2.0), torch.full((4, 1), -2.0)
        assert loss.discriminator(high, low) < loss.discriminator(low, high)
        assert loss.generator(high * 0.5) < loss.generator(low * 0.5)

    @staticmethod
    def _values(loss: Any, output: Any, target: Any) -> list[Tensor]:
        """The loss, or for an adversarial one what either player minimises, `output` being the fake's logits."""
        if hasattr(loss, "discriminator"):
            return [loss.generator(output), loss.discriminator(target, output)]
        return [loss(output, target)]


def _map(value: Any, change: Any) -> Any:
    return change(value) if isinstance(value, Tensor) else [change(item) for item in value]


def _tensors(value: Any) -> list[Tensor]:
    return [value] if isinstance(value, Tensor) else list(value)
