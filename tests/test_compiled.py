"""Compiled phases: training goes where it goes without, names stay, and what cannot be compiled says why."""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path

import pytest
import torch
from test_contracts import METHODS
from torch import nn

from gantk.errors import UserError
from gantk.machine.runtime import Runtime
from gantk.method import Batch, Geometry, Method, Phase
from gantk.nets.unet import UNet
from gantk.runs.checkpoint import load_weights
from gantk.testing import MethodContract
from gantk.testing.small import random_images
from gantk.training.accelerate.compile import CompiledLoss, compile_phases, reason
from gantk.training.accelerate.recompute import recompute
from gantk.training.engine import Engine, Plan
from gantk.training.optim import Constant, adam, sgd

CASES = [(name, number) for name in sorted(METHODS) for number in range(len(METHODS[name]))]


def player_of() -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.Dropout(0.3), nn.Conv2d(4, 1, 3))


class Sketch(Method):
    """A player with dropout and a judge; `spoil` is run inside the player's losses."""

    reads = ("image",)

    def __init__(self, spoil=None, player=None):
        super().__init__(Geometry(2, (8, 8), {"image": 1}))
        torch.manual_seed(0)
        self.player = (player or player_of)()
        self.critic = nn.Conv2d(1, 1, 3)
        self.spoil = spoil
        self.register_buffer("seen", torch.zeros(()))

    def phases(self):
        return [Phase("play", (self.player,), self.play, ema=True), Phase("judge", (self.critic,), self.judge)]

    def play(self, batch):
        fake = self.player(batch["image"])
        if self.spoil:
            self.spoil(self, fake)
        self.seen += 1
        batch["fake"] = fake.detach()
        return {"adversarial": -self.critic(fake).mean(), "size": fake.square().mean() * (1 + self.progress)}

    def judge(self, batch):
        return {"critic": self.critic(batch["fake"]).square().mean()}


class Asking(nn.Conv2d):
    """A network that asks for a value."""

    def forward(self, x):
        return super().forward(x) * (2.0 if float(x.detach().mean()) > 0 else 1.0)


def sketched(backend: str | None, rule=sgd, **options) -> Engine:
    method, runtime = Sketch(**options), Runtime(torch.device("cpu"), "fp32", True)
    plan = Plan(4, rule, {}, Constant(), None, ema=0.9, seed=3)
    return compiling(Engine(runtime.place(method, 2), plan, runtime), backend)


def compiling(engine: Engine, backend: str | None) -> Engine:
    if backend:
        engine.phases = compile_phases(engine.method, engine.phases, engine.notes, backend)
    return engine


def images(step: int, stage=None, count: int = 2) -> Batch:
    return Batch(image=torch.randn(count, 1, 8, 8, generator=torch.Generator().manual_seed(step)))


def train(engine: Engine, batch_at=images) -> list[dict]:
    return [losses for _, _, losses in engine.fit(batch_at)]


def assert_same(one: Engine, other: Engine, **tolerance) -> None:
    expected = other.method.state_dict()
    for name, tensor in one.method.state_dict().items():
        torch.testing.assert_close(tensor, expected[name], **tolerance, msg=lambda m, n=name: f"{n}: {m}")


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


@pytest.mark.parametrize(("name", "number"), [("regression", 0), ("dcgan", 3)])
def test_a_compiled_training_goes_where_the_plain_one_goes(name, number):
    assert compared(name, number, "eager", steps=2) == []


@pytest.mark.slow
@pytest.mark.parametrize(("name", "number"), CASES)
def test_every_method_compiles(name, number):
    """As a whole, or where a loss differentiates twice, network by network."""
    steps = 8 if name == "progan" else 2
    notes = compared(name, number, "aot_eager", steps)
    adversarial = METHODS[name][number].get("adversarial", "wgan_gp" if name == "progan" else None)
    if "attention_unet" in str(METHODS[name][number]):  # torch's tracer takes a starred list for a tuple
        assert all("pop" in note for note in notes)
    else:
        assert len(notes) == (adversarial == "wgan_gp"), notes
        assert all("network by network" in note for note in notes)


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


def test_random_numbers_are_those_of_the_plain_phase():
    plain, other = sketched(None), sketched("aot_eager")
    train(plain)
    train(other)
    assert other.notes == []
    assert_same(other, plain, rtol=0, atol=1e-7)


def test_a_network_that_a_penalty_differentiates_twice_is_compiled_but_for_the_penalty():
    notes = compared("dualgan", 1, "eager", steps=1)
    assert len(notes) == 1
    assert notes[0].startswith("train.compile: the phase 'discriminators' is compiled network by network: Unsupported")
    assert "requires_grad" in notes[0]
    assert "\n" not in notes[0] and len(notes[0]) < 320


def test_names_inference_and_copies_stay_as_they_are():
    contract = contract_of("regression", 0)
    engine = compiling(contract.engine(contract.build(2), steps=2), "eager")
    before = list(engine.method.state_dict())
    contract.train(engine, 2)
    assert list(engine.method.state_dict()) == before
    assert not any("_orig_mod" in name for name, _ in engine.method.named_modules())
    image = contract.batch_at(engine.method, 0)["a"]
    with torch.no_grad():
        assert torch.equal(copy.deepcopy(engine.method).eval().translate(image, "b"), engine.method.eval().g_ab(image))
    assert all(module._compiled_call_impl is None for module in engine.method.modules())


def branch(method: Sketch, fake: torch.Tensor) -> None:
    if float(fake.detach().mean()) > 1e9:
        raise AssertionError("never")


def test_where_a_phase_cannot_be_compiled_its_networks_are(capfd):
    plain, other = sketched(None, spoil=branch), sketched("eager", spoil=branch)
    train(plain)
    train(other)
    (note,) = other.notes
    assert note.startswith("train.compile: the phase 'play' is compiled network by network: ")
    assert capfd.readouterr().err == "", "torch tells it in pages"
    assert_same(other, plain, rtol=0, atol=1e-7)
    compiled = other.phases[0].loss.ways[0]._calls
    assert set(compiled) == {other.method.player, other.method.critic}
    assert all(module._compiled_call_impl is None for module in other.method.modules())


def test_where_nothing_can_be_compiled_training_goes_on_without():
    plain, other = (sketched(backend, spoil=branch, player=lambda: Asking(1, 1, 3)) for backend in (None, "eager"))
    train(plain)
    train(other)
    assert [note.split(":")[1] for note in other.notes] == [
        " the phase 'play' is compiled network by network",
        " the phase 'play' runs operator by operator",
    ]
    assert_same(other, plain, rtol=0, atol=0)


def wrong_backend(graph, inputs):
    return lambda *args: [2 * out if isinstance(out, torch.Tensor) else out for out in graph(*args)]


def test_what_is_compiled_wrongly_is_not_used():
    plain, other = sketched(None), sketched(wrong_backend)
    train(plain)
    train(other)
    assert re.search(r"runs operator by operator: what was compiled is wrong: losses by \d", other.notes[1])
    assert_same(other, plain, rtol=0, atol=0)


def lossy_backend(graph, inputs):
    """Right values, wrong gradients."""
    return lambda *args: [
        out.detach() + 0 * out if isinstance(out, torch.Tensor) and out.requires_grad else out for out in graph(*args)
    ]


def test_gradients_that_get_lost_are_found():
    plain, other = sketched(None), sketched(lossy_backend)
    train(plain)
    train(other)
    assert "what was compiled is wrong: gradients by 1" in other.notes[0]
    assert_same(other, plain, rtol=0, atol=0)


def test_a_count_that_python_keeps_is_named():
    def count(method, fake):
        method.calls = getattr(method, "calls", 0) + 1

    engine = sketched("eager", spoil=count)
    train(engine)
    (note,) = engine.notes
    assert note.endswith("operator by operator: every step changes calls in Python; hold it in a buffer, as a tensor")


def test_other_shapes_and_stages_are_tried_before_they_are_used():
    engine = sketched("eager")
    loss = engine.phases[0].loss
    train(engine, lambda step, stage: images(step, count=1 + step % 2))
    assert isinstance(loss, CompiledLoss) and len(loss._known) == 2
    assert engine.notes == []
    assert float(engine.method.seen) == 4, "what was tried has left something behind"


def test_microbatches_leave_what_the_next_phase_needs():
    method, runtime = Sketch(), Runtime(torch.device("cpu"), "fp32", True)
    plan = Plan(2, sgd, {}, Constant(), 1, ema=0.0, seed=3)
    engine = compiling(Engine(runtime.place(method, 2), plan, runtime), "eager")
    for _, batch, losses in engine.fit(images):
        assert batch["fake"].shape == (2, 1, 6, 6) and not batch["fake"].requires_grad
        assert set(losses) == {"play/adversarial", "play/size", "judge/critic"}
    assert engine.notes == []


def test_what_is_missing_on_the_machine_is_told_at_once():
    class InvalidCxxCompiler(RuntimeError):
        """Stands in for the compiler's own."""

    def backend(graph, inputs):
        raise InvalidCxxCompiler("No working C++ compiler found in torch._inductor.config.cpp.cxx: (None, 'g++')")

    engine = sketched(backend)
    train(engine)
    told = "runs operator by operator: there is no C++ compiler; install g++"
    assert engine.notes == [f"train.compile: the phase '{name}' {told}" for name in ("play", "judge")]


def test_losses_of_the_wrong_kind_are_told_as_they_are_without_compiling():
    engine = sketched("eager")
    wrong = Phase("play", (engine.method.player,), lambda batch: {"x": 0.5})
    (phase,) = compile_phases(engine.method, [wrong], engine.notes, "eager")
    with pytest.raises(UserError, match=r"the loss 'x' is a float.*\(the phase 'play' of the method Sketch\)"):
        phase.loss(images(0))


def test_a_reason_is_one_line():
    error = RuntimeError("first\n\nsecond")
    error.__cause__ = ValueError("\n  what it was\nand more")
    assert reason(error) == ("ValueError: what it was", False)


def test_what_is_computed_again_is_not_compiled():
    contract = contract_of("regression", 0)
    engine = contract.engine(recompute(contract.build(2)))
    before, notes = engine.phases, []
    assert compile_phases(engine.method, before, notes) is before
    assert len(notes) == 1 and "train.recompute" in notes[0]


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_real_compiler_goes_where_the_plain_phases_go(precision):
    notes = compared("regression", 0, "inductor", steps=2, precision=precision)
    assert notes == []


@pytest.mark.slow
def test_a_machine_without_a_compiler_trains_without():
    import torch._inductor.config
    import torch._inductor.cpp_builder

    engine = sketched("inductor", rule=adam)
    with torch._inductor.config.patch({"cpp.cxx": (None, "no-such-compiler"), "force_disable_caches": True}):
        train(engine)
    assert [note.split(": ")[-1] for note in engine.notes] == ["there is no C++ compiler; install g++"] * 2


@pytest.mark.slow
def test_a_run_that_cannot_compile_says_why_and_ends_where_the_others_do(tmp_path, tiny_file, gantk_process):
    """Through the command line, in processes of their own."""
    ends = []
    for out, compiled in (("plain", "false"), ("compiled", "true")):
        command = ("run", tiny_file, "--out", out, "--device", "cpu", "--set", f"train.compile={compiled}")
        done = gantk_process(*command, cwd=tmp_path, CXX="no-such-compiler", TORCHINDUCTOR_FORCE_DISABLE_CACHES="1")
        assert done.code == 0, done.err
        ends.append(load_weights(sorted((tmp_path / out / "checkpoints").iterdir())[-1]))
        notes = [line["note"] for line in log(tmp_path / out) if "note" in line]
        told = [f"train.compile: the phase '{phase}' runs operator by operator: there is no C++ compiler; install g++"
                for phase in ("generators", "discriminators")]  # fmt: skip
        assert notes == (told if compiled == "true" else [])
    assert ends[0].keys() == ends[1].keys()
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])


def log(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text("utf-8").splitlines()]
