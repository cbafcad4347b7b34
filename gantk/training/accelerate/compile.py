"""torch.compile for the losses of every phase: many small operators become few larger kernels.

A phase is compiled as a whole; where that cannot be, its networks are, each for itself; and where that cannot be
either, it runs operator by operator. What was compiled is tried before it is used: from the same state and the same
random numbers, losses, gradients and all that the phase leaves behind must be those of the plain phase. (torch 2.11 has
been seen to lose gradients without a word.) Every kind of call is tried by itself: another size of the batch, another
stage. `notes` say in one line what is not compiled, and why.

Weights keep their names, and inference and export use the networks as they are.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import Tensor, nn

from gantk.method import Batch, Method, Phase, check_losses
from gantk.nets.blocks import summed_kernel
from gantk.training.accelerate.cuda_graph import State
from gantk.training.accelerate.python_state import PythonState
from gantk.training.accelerate.recompute import Recomputed

Losses = dict[str, Tensor]
Loss = Callable[[Batch], Losses]
KINDS = 64  # of calls that are compiled; beyond, something is another one at every step
# Relative differences that rounding stays below, in bfloat16 too; what is wrong differs by about 1.
TOLERANCE = {"losses": 0.05, "images": 0.05, "buffers": 0.05, "gradients": 0.25}
MISSING = {
    "InvalidCxxCompiler": "there is no C++ compiler; install g++",
    "TritonMissing": "Triton is not installed",
    "GPUTooOldForTriton": "the GPU is too old for Triton",
}


def compile_phases(method: Method, phases: list[Phase], notes: list[str], backend: str = "inductor") -> list[Phase]:
    """The phases with losses that are compiled when they are first called; what falls back is told in `notes`."""
    if any(isinstance(vars(module).get("forward"), Recomputed) for module in method.modules()):
        notes.append("train.compile: no phase is compiled: torch cannot trace what train.recompute computes again")
        return phases
    # Dynamo is not to look into these: it loses gradients where a function writes in place, and misreads *range(...).
    for function in (summed_kernel, *_functions()):
        torch.compiler.allow_in_graph(function)
    return [replace(phase, loss=CompiledLoss(method, phase, notes, backend)) for phase in phases]


class CompiledLoss:
    """A phase's loss: batch -> {name: scalar}, compiled where that can be; what it puts into the batch is there."""

    def __init__(self, method: Method, phase: Phase, notes: list[str], backend: str):
        self.method, self.phase, self.notes = method, phase, notes
        self.ways: list[Whole | Apart] = [Whole(phase.loss, backend), Apart(phase.loss, backend)]
        self._known: set[Hashable] = set()

    def __call__(self, batch: Batch) -> Losses:
        kind = kind_of(self.method, batch)
        while self.ways and kind not in self._known:
            if torch.cuda.is_available() and torch.cuda.is_current_stream_capturing():
                return self.phase.loss(batch)  # no time to try anything
            why = self._why_not(batch)
            if why is None:
                self._known.add(kind)
            else:
                self._fall_back(why)
        if not self.ways:
            return self.phase.loss(batch)
        with torch.compiler.set_stance("eager_on_recompile"):  # nothing runs that was not tried
            return self.ways[0](batch)

    def _why_not(self, batch: Batch) -> str | None:
        """Why the first of the ways cannot be used for such a batch; None where it can. All is as before afterwards."""
        if len(self._known) >= KINDS:
            return f"there are more than {KINDS} kinds of steps"
        way, state, python = self.ways[0], Buffers(self.method), PythonState(self.method)
        with _outermost(self.method) as called:
            expected = self._outcome(self.phase.loss, batch, state)
        try:
            python.expect_same()
        except ValueError as error:
            python.restore()
            self.ways = self.ways[:1]
            return str(error)
        try:
            with torch._dynamo.config.patch(_limits()), _silence():
                way.prepare(called)
                found = self._outcome(way, batch, state)
        except Exception as error:  # whatever it is: training goes on without
            state.restore()
            python.restore()
            why, missing = reason(error)
            self.ways = self.ways[:1] if missing else self.ways
            return why
        apart = {name: _apart(expected[name], found[name]) for name in TOLERANCE}
        wrong = [f"{name} by {apart[name]:.2g}" for name in apart if not apart[name] <= TOLERANCE[name]]
        return f"what was compiled is wrong: {', '.join(wrong)}" if wrong else None

    def _outcome(self, loss: Loss, batch: Batch, state: Buffers) -> dict[str, dict[str, Tensor]]:
        """Losses, gradients and what else a call leaves behind. Buffers and random numbers are as before afterwards."""
        inside, devices = Batch(batch), {image.device for image in batch.values() if image.is_cuda}
        weights = {n: p for module in self.phase.updates for n, p in _weights(self.method, module)}
        with torch.random.fork_rng(devices, enabled=True), torch.enable_grad():
            losses = check_losses(self.method, self.phase, loss(inside))
            total = torch.stack([each.float() for each in losses.values()]).sum()
            gradients = torch.autograd.grad(total, list(weights.values()), allow_unused=True)
        found = {
            "losses": {name: each.detach() for name, each in losses.items()},
            "images": {name: image.detach() for name, image in inside.items() if image is not batch.get(name)},
            "buffers": {name: tensor.clone() for name, tensor in self.method.named_buffers()},
            "gradients": {name: grad for name, grad in zip(weights, gradients, strict=True) if grad is not None},
        }
        state.restore()
        return found

    def _fall_back(self, why: str) -> None:
        del self.ways[0]
        self._known.clear()
        how = "is compiled network by network" if self.ways else "runs operator by operator"
        self.notes.append(f"train.compile: the phase '{self.phase.name}' {how}: {why}")


class Buffers:
    """A method's buffers as they are now; `restore` puts the same tensors back, with the values that they have now."""

    def __init__(self, method: Method):
        parts = list(method.modules())
        self._places = [(part, name, t) for part in parts for name, t in part._buffers.items() if t is not None]
        self._state = State([tensor for *_, tensor in self._places])

    def restore(self) -> None:
        """Undo what a step did."""
        for part, name, tensor in self._places:
            part._buffers[name] = tensor
        self._state.restore()


class Whole:
    """A loss as one compiled function."""

    def __init__(self, loss: Loss, backend: str):
        def run(images: dict[str, Tensor]) -> tuple[Losses, dict[str, Tensor]]:
            inside = Batch(images)
            losses = loss(inside)
            return losses, {name: image for name, image in inside.items() if image is not images.get(name)}

        self._run = _compiled(run, backend)

    def prepare(self, called: list[nn.Module]) -> None:
        """Nothing to do."""

    def __call__(self, batch: Batch) -> Losses:
        losses, left = self._run(dict(batch))
        batch.update(left)
        return losses


class Apart:
    """A loss that calls compiled networks. A gradient penalty sees the plain ones: it differentiates twice."""

    def __init__(self, loss: Loss, backend: str):
        self._loss, self._backend = loss, backend
        self._calls: dict[nn.Module, Callable] = {}

    def prepare(self, called: list[nn.Module]) -> None:
        """Take on the networks that the loss was seen to call."""
        for network in called:
            if network not in self._calls:
                self._calls[network] = _stand_in(network, self._backend)
        if not self._calls:
            raise ValueError("it calls no network")

    def __call__(self, batch: Batch) -> Losses:
        for network, call in self._calls.items():
            network.__dict__["_compiled_call_impl"] = call  # where torch's own Module.compile puts it
        try:
            return self._loss(batch)
        finally:
            for network in self._calls:
                network.__dict__.pop("_compiled_call_impl", None)


def kind_of(method: Method, batch: Batch) -> Hashable:
    """What calls of a loss may differ in: the batch's shapes, and what the method itself remembers of its stage."""
    own = []
    for name, value in vars(method).items():
        try:
            hash(value)
        except TypeError:  # tables of modules and the like, which stay what they are
            continue
        own.append((name, value))
    return tuple((name, tuple(t.shape), t.dtype, t.stride()) for name, t in batch.items()), tuple(own)


def reason(error: BaseException) -> tuple[str, bool]:
    """An error of the compiler in one line, and whether it would be the same for anything that is compiled."""
    chain = [error]
    while (inner := getattr(chain[-1], "inner_exception", None) or chain[-1].__cause__) and inner not in chain:
        chain.append(inner)
    for each in reversed(chain):
        for name, told in MISSING.items():
            if name == type(each).__name__ or name in str(each).split("\n")[0]:
                return told, True
    lines = [line.strip() for line in str(chain[-1]).split("\n") if line.strip()] or ["no message"]
    explained = [line.removeprefix("Explanation: ") for line in lines if line.startswith("Explanation: ")]
    return f"{type(chain[-1]).__name__}: {(explained or lines)[0]}"[:200], False


def _limits() -> dict[str, int]:
    """How many kinds of calls are compiled, by the names that this torch has for it."""
    name = "recompile_limit" if hasattr(torch._dynamo.config, "recompile_limit") else "cache_size_limit"
    return {name: KINDS, f"accumulated_{name}": 16 * KINDS}


def _compiled(function: Callable, backend: str) -> Callable:
    """With random numbers as they are drawn without: a seed then gives the same step, and steps can be compared."""
    options = {"fallback_random": True} if backend == "inductor" else None
    # What was compiled is kept with the code: copies of it keep theirs apart, and count their kinds apart.
    function.__code__ = function.__code__.replace(co_name=f"{function.__name__}_{id(function)}")
    return torch.compile(function, fullgraph=True, dynamic=False, backend=backend, options=options)


def _stand_in(network: nn.Module, backend: str) -> Callable:
    def run(*args, **options):  # torch leaves functions of its own files, such as Sequential's, alone
        return network._call_impl(*args, **options)

    compiled = _compiled(run, backend)

    def call(*args, **options):
        asked = any(isinstance(x, Tensor) and x.requires_grad and x.is_leaf for x in args)  # for its gradient
        return (run if asked else compiled)(*args, **options)

    return call


@contextmanager
def _silence() -> Iterator[None]:
    """Without the pages that torch writes where something cannot be compiled: a note says it in a line."""
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


@contextmanager
def _outermost(method: Method) -> Iterator[list[nn.Module]]:
    """The method's networks that are called inside, not by one another."""
    own, found, depth = set(method.modules()), {}, 0

    def enter(module: nn.Module, args: tuple) -> None:
        nonlocal depth
        if not depth and module in own and any(True for _ in module.parameters()):
            found[module] = None
        depth += 1

    def leave(module: nn.Module, args: tuple, result: object) -> None:
        nonlocal depth
        depth -= 1

    before = nn.modules.module.register_module_forward_pre_hook(enter)
    after = nn.modules.module.register_module_forward_hook(leave)
    called: list[nn.Module] = []
    try:
        yield called
    finally:
        before.remove()
        after.remove()
        parts = {part for module in found for part in module.modules() if part is not module}
        called.extend(module for module in found if module not in parts)


def _weights(method: Method, module: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """What a phase updates of a module, under names that no other of its modules has."""
    return ((f"{id(module)}.{name}", p) for name, p in module.named_parameters() if p.requires_grad)


def _apart(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    """The distance between two sets of tensors, relative to the first."""
    if one.keys() != other.keys() or any(one[name].shape != other[name].shape for name in one):
        return float("inf")
    pairs = [(one[name].double().nan_to_num(), other[name].double().nan_to_num()) for name in one]
    size = sum(float(a.square().sum()) for a, _ in pairs) ** 0.5
    return sum(float((a - b).square().sum()) for a, b in pairs) ** 0.5 / max(size, 1e-6)


def _functions(kind: type = torch.autograd.Function) -> Iterator[type]:
    """All that is differentiated in a way of its own, torch's own things left out."""
    for each in kind.__subclasses__():
        if not each.__module__.startswith("torch."):
            yield each
        yield from _functions(each)
