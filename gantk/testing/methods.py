"""Contract tests of methods: phases change only their own modules, resuming is exact, and images
have the right shape.
"""

from __future__ import annotations

import copy
from typing import ClassVar

import pytest
import torch
from torch import Tensor

from gantk.machine.runtime import Runtime
from gantk.method import Batch, Geometry, Method, Stage, check_networks
from gantk.nets.blocks import batch_independent
from gantk.plugin.spec import bind
from gantk.runs import checkpoint
from gantk.runs.trained import split_weights
from gantk.testing.small import POOL, Contract, random_images, small_part, train_table
from gantk.training.engine import Engine
from gantk.training.optim import Constant, adam, sgd

BATCH = 2


class MethodContract(Contract):
    """Tests of a method. A subclass names it: `method = "mygan"`. Everything else has a default.

    Attributes:
        options: options of the method. gantk's own networks among its defaults are made small;
            `options` adds to the defaults or overrides them.
    """

    method: ClassVar[str]
    channels: ClassVar[int] = 1  # of every domain
    range: ClassVar[tuple[float, float] | None] = (-1.0, 1.0)  # of its images; None: not bounded
    classes: ClassVar[tuple[str, ...]] = ()  # classes of the images, for methods that use labels
    microbatches: ClassVar[bool] = True  # False if a loss is of the batch as a whole

    def build(self, dims: int, seed: int = 0, pool: int = POOL) -> Method:
        """Build the method with weights drawn from `seed`. Its image pools, if any, hold `pool`
        images.
        """
        torch.manual_seed(seed)
        part = small_part("method", self.method, self.options or {}, pool)
        channels = dict.fromkeys(part.target.reads, self.channels)
        return part(Geometry(dims, self.size(dims), channels, self.classes))

    def engine(
        self,
        method: Method,
        *,
        precision: str = "fp32",
        microbatch: int | None = None,
        rule=adam,
        steps: int = 4,
        schedule=Constant,
        graph=None,
    ) -> Engine:
        """An engine for a few steps with a moving average. `rule` builds its optimizers."""
        runtime = Runtime(torch.device("cpu"), precision, channels_last=True)
        runtime.place(method, method.geometry.dims)
        table = train_table(rule, schedule=schedule, microbatch=microbatch)
        return Engine(method, table, steps, runtime, graph)

    def batch_at(
        self, method: Method, step: int, size: tuple[int, ...] | None = None, count: int = BATCH
    ) -> Batch:
        """A batch of `count` images, the same for the same step."""
        size = size or method.geometry.size
        batch = Batch()
        for seed, domain in enumerate(method.reads, start=100 * step):
            batch[domain] = random_images(count, self.channels, size, seed)

        if self.classes:
            batch["label"] = torch.arange(count) % len(self.classes)
        return batch

    def train(self, engine: Engine, until: int) -> dict[str, Tensor]:
        """Run the engine's steps up to the step `until`; returns the losses of the last step."""

        def batch_at(step: int, stage: Stage) -> Batch:
            return self.batch_at(engine.method, step, stage.size)

        for _, _, losses in engine.fit(batch_at):
            if engine.step == until:
                return losses

        return {}

    def test_builds_from_its_defaults(self, d):
        part = bind("method", self.method)
        channels = dict.fromkeys(part.target.reads, self.channels)
        with torch.device("meta"):  # no memory, no time: the defaults may be large
            method = part(Geometry(d, (64,) * d, channels))
        check_networks(method)
        assert method.phases(), "a method needs at least one phase"

    def test_losses_are_finite_numbers_with_names_whatever_the_batch(self, d):
        batches = [("fp32", 1), ("bf16", 3)] if d == 2 else [("bf16", 1)]  # other tests have fp32
        for precision, count in batches:
            method = self.build(d)
            steps = max(2, len(method.stages(1000)))  # two, and one of every stage
            engine = self.engine(method, precision=precision, steps=steps)

            def batch_at(step: int, stage: Stage, method=method, count=count) -> Batch:
                return self.batch_at(method, step, stage.size, count)

            for _, _, losses in engine.fit(batch_at):
                assert losses
                for name, loss in losses.items():
                    where = f"at step {engine.step} in {precision} with a batch of {count}"
                    assert loss.shape == (), f"'{name}' is not one number"
                    assert torch.isfinite(loss), f"'{name}' is {float(loss)} {where}"

            for images in self._products(method):
                assert torch.isfinite(images).all()

    def test_each_phase_moves_its_own_modules_only(self, d):
        method = self.build(d)
        stage = method.stages(4)[0]
        engine = self.engine(method)
        batch = self.batch_at(method, 0, stage.size)
        method.begin(stage, batch)
        for phase in method.phases():
            before = copy.deepcopy(dict(method.named_parameters()))
            engine.phases = [phase]
            engine.train_step(batch)
            own = set(torch.nn.ModuleList(phase.updates).parameters())
            moved = False
            for name, parameter in method.named_parameters():
                if torch.equal(parameter, before[name]):
                    continue
                moved = True
                assert parameter in own, (
                    f"the phase '{phase.name}' changed {name}, which is not in its `updates`"
                )

            assert moved, f"the phase '{phase.name}' changed no weight"

    def test_resume_is_exact(self, tmp_path):
        d = min(self.dims)  # what a checkpoint holds does not depend on the dimensions
        whole = self.engine(self.build(d))
        for _ in whole.fit(lambda step, stage: self.batch_at(whole.method, step, stage.size)):
            if whole.step == 2:
                path = checkpoint.save(tmp_path, 2, whole.weights(), whole.state_dict(), {})
        # other weights: all must come from the checkpoint
        resumed = self.engine(self.build(d, seed=1))
        torch.rand(7)  # and another state of the random numbers
        live, average = split_weights(checkpoint.load_weights(path))
        checkpoint.load_into(resumed.method, live, str(path))
        resumed.load_state_dict(checkpoint.load_state(path), average)
        self.train(resumed, until=4)
        assert_equal(resumed.weights(), whole.weights())
        # The outputs are equal too: no state is outside the checkpoint.
        found = self._products(resumed.method)
        expected = self._products(whole.method)
        torch.testing.assert_close(found, expected, rtol=0, atol=0)

    def test_images_have_the_right_shape_and_range(self, d):
        for images in self._products(self.build(d)):
            assert images.shape == (BATCH, self.channels, *self.size(d))
            assert torch.isfinite(images).all()
            if self.range is not None:
                low, high = self.range
                assert images.min() >= low - 1e-6
                assert images.max() <= high + 1e-6

    def test_images_of_a_batch_do_not_influence_each_other_in_inference(self, d):
        method = self.build(d).eval()
        images = random_images(3, self.channels, self.size(d))
        with torch.no_grad():
            for to in method.directions():
                method = _translating(method)
                together = method.translate(images, to)
                singles = torch.cat([method.translate(image, to) for image in images.split(1)])
                torch.testing.assert_close(together, singles, rtol=1e-3, atol=1e-4)

    def test_a_seed_gives_the_same_samples_again(self, d):
        method = self.build(d).eval()
        if not method.samples:
            pytest.skip("does not sample from noise")

        with torch.no_grad():
            first = method.sample(2, seed=0)
            again = method.sample(2, seed=0)
            other = method.sample(2, seed=1)

        assert torch.equal(first, again)
        assert not torch.equal(first, other)

    def test_microbatches_give_the_same_step(self, d):
        # Without pools: their output depends on the order.
        whole = self.build(d, pool=0)
        parts = self.build(d, pool=0)
        if not self.microbatches or not batch_independent(whole):
            pytest.skip("mixes the images of a batch")

        engine = self.engine(whole, rule=sgd)
        engine.runtime.seed(0, 0)
        untouched = torch.get_rng_state()
        self.train(engine, until=1)
        if not torch.equal(torch.get_rng_state(), untouched):
            pytest.skip("draws different random numbers for every microbatch")

        self.train(self.engine(parts, rule=sgd, microbatch=1), until=1)
        found = dict(parts.state_dict())
        expected = dict(whole.state_dict())
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)

    def _products(self, method: Method) -> list[Tensor]:
        """The method's outputs: the translations of every direction, or samples."""
        method.eval()
        images = random_images(BATCH, self.channels, method.geometry.size)
        with torch.no_grad():
            products = [_translating(method).translate(images, to) for to in method.directions()]
            if method.samples:
                products.append(method.sample(BATCH, seed=0))
        return products


def _translating(method: Method) -> Method:
    """The method as it translates: of its first class, if it is conditional."""
    return method.of_class(0) if method.conditional else method


def assert_equal(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    where = (
        "keep all values between steps in buffers, self.register_buffer(name, tensor), and"
        " change them in place"
    )
    torch.testing.assert_close(
        found, expected, rtol=0, atol=0, equal_nan=True, msg=lambda differs: f"{where}\n{differs}"
    )
