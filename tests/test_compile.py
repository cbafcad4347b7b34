"""Compiled phases: training goes where it goes without, names stay, and what cannot be compiled says why."""

from __future__ import annotations

import re

import pytest
import torch
from sketch import Sketch, assert_same, images, train
from test_contracts import METHODS

from gantk.machine.runtime import Runtime
from gantk.method import Batch, Geometry, Method, Phase
from gantk.nets.unet import UNet
from gantk.testing import MethodContract
from gantk.testing.small import random_images, train_table
from gantk.training.engine import Engine
from gantk.training.optim import sgd
from gantk_compile.phases import CompiledLoss, compile_phases

CASES = [(name, number) for name in sorted(METHODS) for number in range(len(METHODS[name]))]


def sketched(backend: str | None, rule=sgd, **options) -> Engine:
    method, runtime = Sketch(**options), Runtime(torch.device("cpu"), "fp32", True)
    return compiling(Engine(runtime.place(method, 2), train_table(rule, seed=3), 4, runtime), backend)


def compiling(engine: Engine, backend: str | None) -> Engine:
    if backend:
        engine.phases = compile_phases(engine.method, engine.phases, engine.notes, backend)
    return engine


def contract_of(name: str, number: int) -> MethodContract:
    options = METHODS[name][number]
    contract = type("Contract", (MethodContract,), {"method": name, "options": options})()
    contract.classes = ("one", "other") if options.get("conditional") else ()
    return contract


def compared(name: str, number: int, backend: str, steps: int, precision: str = "fp32") -> list[str]:
    """Train a method of the contracts with and without; the notes of the one with."""
    contract = contract_of(name, number)
    plain, other = (contract.engine(contract.build(2), rule=sgd, steps=steps, precision=precision) for _ in range(2))
    start = {key: tensor.clone() for key, tensor in plain.method.state_dict().items()}
    compiling(other, backend)
    contract.train(plain, steps)
    contract.train(other, steps)
    expected, found = plain.method.state_dict(), other.method.state_dict()
    moved = distance({key: expected[key] - start[key] for key in start})
    apart = distance({key: expected[key] - found[key] for key in start})
    assert apart < (0.02 if precision == "fp32" else 0.3) * moved, f"{apart:.3g} apart, where {moved:.3g} were moved"
    return other.notes


def distance(tensors: dict[str, torch.Tensor]) -> float:
    return sum(float(tensor.double().square().sum()) for tensor in tensors.values()) ** 0.5


@pytest.mark.slow
@pytest.mark.parametrize(("name", "number"), CASES)
def test_every_method_compiles(name, number):
    """As a whole; a loss that differentiates twice runs operator by operator."""
    steps = 8 if name == "progan" else 2
    notes = compared(name, number, "aot_eager", steps)
    adversarial = METHODS[name][number].get("adversarial", "wgan_gp" if name == "progan" else None)
    if "attention_unet" in str(METHODS[name][number]):  # torch's tracer takes a starred list for a tuple
        assert all("pop" in note for note in notes)
    else:
        assert len(notes) == (adversarial == "wgan_gp"), notes
        assert all("operator by operator" in note for note in notes)


class Doubled(Method):
    """A generator whose doublings are computed as transposed convolutions, from maps that are large enough."""

    def __init__(self):
        super().__init__(Geometry(2, (64, 64), {"a": 1, "b": 1}))
        torch.manual_seed(0)
        self.net = UNet(1, 1, 2, width=2, depth=2)

    def phases(self):
        return [Phase("play", (self.net,), lambda batch: {"l2": (self.net(batch["a"]) - batch["b"]).square().mean()})]


def test_gradients_survive_what_the_tracer_gets_wrong(capfd):
    """torch 2.11 loses those of functions that write in place, as a U-Net's joints do, and misreads summed kernels."""
    method, notes = Doubled(), []
    (phase,) = compile_phases(method, method.phases(), notes, "aot_eager")
    batch = Batch({name: random_images(2, 1, (64, 64), seed=seed) for seed, name in enumerate("ab")})
    gradients = []
    for loss in (method.phases()[0].loss, phase.loss):
        gradients.append(torch.autograd.grad(loss(Batch(batch))["l2"], list(method.parameters())))
    assert notes == []
    for expected, found in zip(*gradients, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-6)
    assert capfd.readouterr().err == ""


def branch(image: torch.Tensor, progress: torch.Tensor) -> torch.Tensor:
    if float(image.detach().mean()) > 1e9:
        raise AssertionError("never")
    return image


def test_where_a_phase_cannot_be_compiled_training_goes_on_without(capfd):
    plain, other = (sketched(backend, spoil=branch) for backend in (None, "eager"))
    train(plain)
    train(other)
    (note,) = other.notes
    assert note.startswith("train.fast.compile: the phase 'play' runs operator by operator: ")
    assert capfd.readouterr().err == "", "torch tells it in pages"
    assert_same(other, plain)


def wrong_backend(graph, inputs):
    return lambda *args: [2 * out if isinstance(out, torch.Tensor) else out for out in graph(*args)]


def lossy_backend(graph, inputs):
    """Right values, wrong gradients."""
    return lambda *args: [
        out.detach() + 0 * out if isinstance(out, torch.Tensor) and out.requires_grad else out for out in graph(*args)
    ]


@pytest.mark.parametrize(("backend", "what"), [(wrong_backend, r"losses by \d"), (lossy_backend, "gradients by 1")])
def test_what_is_compiled_wrongly_is_not_used(backend, what):
    plain, other = sketched(None), sketched(backend)
    train(plain)
    train(other)
    assert re.search(f"runs operator by operator: what was compiled is wrong: {what}", other.notes[0])
    assert_same(other, plain)


def test_other_shapes_and_stages_are_tried_before_they_are_used():
    engine = sketched("eager")
    loss = engine.phases[0].loss
    train(engine, lambda step, stage: images(step, count=1 + step % 2))
    assert isinstance(loss, CompiledLoss) and len(loss._known) == 2
    assert engine.notes == []
    assert float(engine.method.seen) == 4, "what was tried has left something behind"


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_real_compiler_goes_where_the_plain_phases_go(precision):
    notes = compared("regression", 0, "inductor", steps=2, precision=precision)
    assert notes == []
