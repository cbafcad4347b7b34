"""Steps that are recorded: training goes where it goes without, or says why it does not."""

import random

import pytest
import torch
from recorded import Recording, host_reads
from tiny import registered, same_weights
from torch import nn

from gantk.machine.runtime import Runtime
from gantk.method import Batch, Geometry, Method, Phase, Stage
from gantk.testing.small import train_table
from gantk.training.engine import Engine

Linear = registered("schedule", "linear")
adam = registered("optimizer", "adam")
sgd = registered("optimizer", "sgd")

CPU = Runtime(torch.device("cpu"), "fp32", True)


class Sketch(Method):
    """A player with dropout and batch norm, a critic on every n-th step; `spoil` is run inside the
    player's losses.
    """

    reads = ("image",)

    def __init__(self, spoil=lambda image, progress: image, every: int = 1):
        super().__init__(Geometry(2, (8, 8), {"image": 1}))
        torch.manual_seed(0)
        first = nn.Conv2d(1, 4, 3, padding=1)
        self.player = nn.Sequential(first, nn.BatchNorm2d(4), nn.Dropout(0.3), nn.Conv2d(4, 1, 3))
        self.critic = nn.Conv2d(1, 1, 3)
        self.spoil = spoil
        self.every = every
        self.register_buffer("seen", torch.zeros(()))

    def phases(self):
        judge = Phase("judge", (self.critic,), self.judge, every=self.every)
        return [Phase("play", (self.player,), self.play, ema=True), judge]

    def play(self, batch):
        fake = self.spoil(self.player(batch["image"]), self.progress)
        self.seen += 1
        batch["fake"] = fake.detach()
        return {
            "adversarial": -self.critic(fake).mean(),
            "size": fake.square().mean() * (1 + self.progress),
        }

    def judge(self, batch):
        return {"critic": self.critic(batch["fake"]).square().mean()}


def images(step: int = 0, stage: Stage | None = None) -> Batch:
    return Batch(image=torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(step)))


def sketched(graph=None, rule=adam, **options) -> Engine:
    """An engine of the sketch, recorded by `graph`."""
    method = CPU.place(Sketch(**options), 2)
    return Engine(method, train_table(rule, schedule=Linear, seed=3), 14, CPU, graph=graph)


def train(engine: Engine) -> list[dict]:
    return [losses for _, _, losses in engine.fit(images)]


def assert_same(one: Engine, other: Engine) -> None:
    assert same_weights(one.method.state_dict(), other.method.state_dict())
    assert same_weights(one.ema.state_dict(), other.ema.state_dict())


def numbers(losses: dict) -> dict[str, float]:
    return {name: float(loss) for name, loss in losses.items()}


# ---- recorded ------------------------------------------------------------------------------------


def test_replays_lead_where_steps_lead():
    """Dropout, batch norm's statistics, schedules, the average's first steps and the critic's pace
    are all in it.
    """
    plain = sketched(every=2)
    replayed = sketched(Recording, every=2)
    expected = train(plain)
    found = train(replayed)

    # with the critic and without
    assert (replayed.capture.obstacle, len(replayed.capture.graphs)) == (None, 2)
    assert_same(plain, replayed)
    # those of long ago too: no replay has written over them
    assert [numbers(losses) for losses in found] == [numbers(losses) for losses in expected]


class Broken(Recording):
    def record(self, function):
        super().record(function)
        raise RuntimeError("operation not permitted when stream is capturing\nand a long story")


def counting(method: Method):
    """Losses that depend on numbers which every step changes in Python."""
    method.number = 0
    method.held = [0]

    def spoil(image, progress):
        method.number += 1
        method.held[0] += 1
        return image * (1 + 0.01 * method.number + 0.01 * method.held[0] + 0.01 * random.random())

    return spoil


def reading(method: Method):
    return lambda image, progress: image * (2.0 if image.mean().item() > 0 else 1.0)


@pytest.mark.parametrize(
    ("graph", "spoil", "note"),
    [
        (
            Recording,
            counting,
            "every step changes number, held, the state of `random` or of `numpy.random` in Python",
        ),
        (Recording, reading, "_local_scalar_dense reads a value: test_fast_steps.py"),
        (
            Broken,
            None,
            "could not be recorded: RuntimeError: operation not permitted when stream is capturing",
        ),
    ],
    ids=["python state", "host read", "error"],
)
def test_steps_that_cannot_be_recorded_run_plainly(graph, spoil, note):
    plain = sketched(every=2)
    replayed = sketched(graph, every=2)
    for engine in (plain, replayed):
        if spoil:
            engine.method.spoil = spoil(engine.method)
        random.seed(0)
        train(engine)

    # tried once, not at every step
    assert len(replayed.notes) == 1
    assert note in replayed.notes[0]
    assert vars(plain.method).get("held") == vars(replayed.method).get("held")
    assert_same(plain, replayed)


def test_recorded_python_numbers_are_noticed():
    """At first it makes hardly a difference; much later in the training it would."""
    held = {}
    engine = sketched(Recording, spoil=lambda image, progress: image * (1 + held["progress"]))
    at = engine.set_time

    def watched(ahead: int) -> None:
        at(ahead)
        held["progress"] = float(engine.method.progress)

    engine.set_time = watched
    train(engine)

    assert "differ between replayed and normal steps" in engine.notes[0]


@pytest.mark.parametrize("rule", [adam, sgd])
def test_nothing_between_two_log_points_makes_the_host_wait(rule):
    engine = sketched(rule=rule)
    for step in range(2):
        engine.train_step(images(step))
    batches = [images(step) for step in range(3)]

    assert host_reads(lambda: [engine.train_step(batch) for batch in batches]) == []
    assert host_reads(lambda: engine.check_finite("")) != []  # a log point may
