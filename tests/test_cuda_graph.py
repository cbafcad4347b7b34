"""Recorded steps: replays go where steps go, and whatever a recording would freeze or cannot hold is found out."""

from __future__ import annotations

import random

import pytest
import torch
from sketch import Sketch, assert_same, images, train

from gantk.machine.runtime import Runtime
from gantk.testing.recorded import Recording, host_reads
from gantk.testing.small import train_table
from gantk.training.engine import Engine
from gantk.training.optim import Linear, adam, sgd
from gantk_optimizers.rules import lbfgs, rmsprop

CPU = Runtime(torch.device("cpu"), "fp32", True)
STEPS = 14


def engine_of(graph=None, spoil=None, rule=adam) -> Engine:
    method = Sketch(every=2) if spoil is None else Sketch(spoil, every=2)
    return Engine(CPU.place(method, 2), train_table(rule, schedule=Linear, seed=3), STEPS, CPU, graph)


def test_replays_lead_where_steps_lead():
    """Dropout, batch norm's statistics, schedules, the average's first steps and the critic's pace are all in it."""
    plain, replayed = engine_of(), engine_of(Recording)
    expected, found = train(plain), train(replayed)
    assert (replayed.capture.obstacle, len(replayed.capture.graphs)) == (None, 2)  # with the critic and without
    assert_same(plain, replayed)
    for one, other in zip(expected, found, strict=True):  # those of long ago too: no replay has written over them
        assert {name: float(loss) for name, loss in one.items()} == {name: float(loss) for name, loss in other.items()}


def test_what_a_trial_changes_in_python_is_named_and_put_back():
    """So that a training whose step cannot be recorded goes where it goes without the attempt."""
    plain, replayed = engine_of(), engine_of(Recording)
    for engine in (plain, replayed):
        method = engine.method
        method.number, method.held = 0, [0]

        def spoil(image, progress, method=method):
            method.number += 1
            method.held[0] += 1
            return image * (1 + 0.01 * method.number + 0.01 * method.held[0] + 0.01 * random.random())

        method.spoil = spoil
        random.seed(0)
        train(engine)
    assert "every step changes number, held, the random numbers of `random` in Python" in replayed.notes[0]
    assert (plain.method.number, plain.method.held) == (replayed.method.number, replayed.method.held)
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
