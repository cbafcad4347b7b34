"""Recorded steps: replays go where steps go, and whatever a recording would freeze or cannot hold is found out."""

from __future__ import annotations

import copy
import random

import pytest
import torch
from torch import nn

from gantk.machine.runtime import Runtime
from gantk.method import Batch, Geometry, Method, Phase, Stage
from gantk.testing.recorded import Recording, host_reads
from gantk.testing.small import train_table
from gantk.training.engine import Engine
from gantk.training.optim import Linear, adam, lbfgs, rmsprop, sgd

CPU = Runtime(torch.device("cpu"), "fp32", True)
STEPS = 14


class Sketch(Method):
    """A generator with dropout and batch norm, a critic on every second step; `spoil` is run inside the step."""

    reads = ("image",)

    def __init__(self, spoil=lambda image, progress: image):
        super().__init__(Geometry(2, (8, 8), {"image": 1}))
        torch.manual_seed(0)
        first = nn.Conv2d(1, 4, 3, padding=1)
        self.player = nn.Sequential(first, nn.BatchNorm2d(4), nn.Dropout(0.3), nn.Conv2d(4, 1, 3))
        self.critic = nn.Conv2d(1, 1, 3)
        self.spoil = spoil

    def phases(self):
        return [Phase("play", (self.player,), self.play, ema=True), Phase("judge", (self.critic,), self.judge, every=2)]

    def play(self, batch):
        fake = self.spoil(self.player(batch["image"]), self.progress)
        batch["fake"] = fake.detach()
        return {"adversarial": -self.critic(fake).mean(), "size": fake.square().mean() * (1 + self.progress)}

    def judge(self, batch):
        return {"critic": self.critic(batch["fake"]).square().mean()}


def engine_of(graph=None, spoil=None, rule=adam) -> Engine:
    method = Sketch() if spoil is None else Sketch(spoil)
    return Engine(CPU.place(method, 2), train_table(rule, schedule=Linear, seed=3), STEPS, CPU, graph)


def images(step: int = 0, stage: Stage | None = None, count: int = 2) -> Batch:
    return Batch(image=torch.randn(count, 1, 8, 8, generator=torch.Generator().manual_seed(step)))


def train(engine: Engine, batch_at=images) -> list[dict]:
    return [losses for _, _, losses in engine.fit(batch_at)]


def assert_same(one: Engine, other: Engine) -> None:
    for name, tensor in one.method.state_dict().items():
        assert torch.equal(tensor, other.method.state_dict()[name]), name
    for name, tensor in one.ema.state_dict().items():
        assert torch.equal(tensor, other.ema.state_dict()[name]), name


def test_replays_lead_where_steps_lead():
    """Dropout, batch norm's statistics, schedules, the average's first steps and the critic's pace are all in it."""
    plain, replayed = engine_of(), engine_of(Recording)
    expected, found = train(plain), train(replayed)
    assert (replayed.capture.obstacle, len(replayed.capture.graphs)) == (None, 2)  # with the critic and without
    assert_same(plain, replayed)
    for one, other in zip(expected, found, strict=True):  # those of long ago too: no replay has written over them
        assert {name: float(loss) for name, loss in one.items()} == {name: float(loss) for name, loss in other.items()}


@pytest.mark.parametrize("held", [0, [0]], ids=["number", "list"])
def test_what_a_trial_changes_in_python_is_named_and_put_back(held):
    """So that a training whose step cannot be recorded goes where it goes without the attempt."""

    def counting(engine: Engine) -> Engine:
        method = engine.method
        method.held = copy.deepcopy(held)

        def spoil(image, progress):
            if isinstance(method.held, list):
                method.held[0] += 1
            else:
                method.held += 1
            count = method.held[0] if isinstance(method.held, list) else method.held
            return image * (1 + 0.01 * count + 0.01 * random.random())

        method.spoil = spoil
        return engine

    plain, replayed = counting(engine_of()), counting(engine_of(Recording))
    for engine in (plain, replayed):
        random.seed(0)
        train(engine)
    assert "every step changes held, the random numbers of `random` in Python" in replayed.notes[0]
    assert plain.method.held == replayed.method.held
    assert_same(plain, replayed)


def test_a_step_that_follows_progress_by_a_number_of_python_is_found():
    """At first it makes hardly a difference; much later in the training it would."""
    held = {}

    def spoil(image, progress):  # what a method does that keeps the share of the training in a Python float
        return image * (1 + held["progress"])

    engine = engine_of(Recording, spoil)
    at = engine.set_time

    def watched(ahead: int) -> None:
        at(ahead)
        held["progress"] = float(engine.method.progress)

    engine.set_time = watched
    train(engine)
    assert "of replayed steps differ" in engine.notes[0]


def test_a_host_read_is_named_with_its_place_and_training_goes_on_as_without():
    def spoil(image, progress):
        return image * (2.0 if image.mean().item() > 0 else 1.0)

    plain, replayed = engine_of(spoil=spoil), engine_of(Recording, spoil)
    train(plain)
    train(replayed)
    assert "_local_scalar_dense reads a value: test_cuda_graph.py" in replayed.notes[0]
    assert len(replayed.notes) == 1  # tried once, not at every step
    assert_same(plain, replayed)


def test_an_error_while_recording_costs_nothing_but_the_recording():
    class Broken(Recording):
        def record(self, function):
            super().record(function)
            raise RuntimeError("operation not permitted when stream is capturing\nand a long story")

    plain, replayed = engine_of(), engine_of(Broken)
    train(plain)
    train(replayed)
    assert replayed.notes == [
        "the step could not be recorded: RuntimeError: operation not permitted when stream is capturing"
    ]
    assert_same(plain, replayed)


def test_optimizers_that_think_on_the_host_are_not_even_tried():
    for rule, name in ((lbfgs, "LBFGS"), (rmsprop, "RMSprop")):  # RMSProp's kernels take numbers on a CPU
        engine = engine_of(Recording, rule=rule)
        assert engine.capture.obstacle == f"the optimizer of the play ({name}) keeps its state on the host"


@pytest.mark.parametrize("rule", [adam, sgd])
def test_nothing_between_two_log_points_makes_the_host_wait(rule):
    engine = engine_of(rule=rule)
    for step in range(2):
        engine.train_step(images(step))
    batches = [images(step) for step in range(3)]
    assert host_reads(lambda: [engine.train_step(batch) for batch in batches]) == []
    assert host_reads(lambda: engine.check_finite("")) != []  # a log point may
