"""Compiles the losses of every phase with torch.compile: many small operators become few larger
kernels.

A phase is compiled as a whole, or runs operator by operator. Compiled code is tested before use:
from the same state and random numbers, its losses, gradients, buffers and outputs must match those
of the plain phase, because torch 2.11 has been seen to lose gradients without a message. Each kind
of call (batch size, stage) is tested separately. Weights keep their names, and inference uses the
networks uncompiled.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from gantk.method import Batch, Method, Phase, check_losses
from gantk.nets.blocks import summed_kernel
from gantk.training.accelerate.state import PythonState, TensorState
from gantk.training.engine import trained_by

Losses = dict[str, Tensor]
KINDS = 64  # most kinds of calls to compile; more mean that something differs at every step
LIMITS = {"recompile_limit": KINDS, "accumulated_recompile_limit": 16 * KINDS}
# Relative differences: rounding stays below these, even in bfloat16; wrong results differ by about
# 1.
TOLERANCE = {"losses": 0.05, "images": 0.05, "buffers": 0.05, "gradients": 0.25}


def compile_phases(
    method: Method, phases: list[Phase], notes: list[str], backend: str = "inductor"
) -> list[Phase]:
    """Return the phases with losses compiled at their first call; a phase that falls back adds a
    line to `notes`.
    """
    # Dynamo must not trace these: it loses gradients where a function writes in place, and misreads
    # *range(...).
    for function in (summed_kernel, *_own_functions()):
        torch.compiler.allow_in_graph(function)

    return [replace(phase, loss=CompiledLoss(method, phase, notes, backend)) for phase in phases]


class CompiledLoss:
    """A phase's loss: batch -> {name: scalar}, compiled if possible; adds the same tensors to the
    batch.
    """

    def __init__(self, method: Method, phase: Phase, notes: list[str], backend: str):
        self.method = method
        self.phase = phase
        self.notes = notes
        self._tested: set[Hashable] = set()
        self._compiled_loss: Callable | None = _compile_loss(phase.loss, backend)

    def __call__(self, batch: Batch) -> Losses:
        # testing is impossible then
        capturing = torch.cuda.is_available() and torch.cuda.is_current_stream_capturing()
        kind = self._kind(batch)
        if self._compiled_loss is not None and kind not in self._tested and not capturing:
            if len(self._tested) < KINDS:
                why = self._failure(batch)
            else:
                why = f"it has more than {KINDS} kinds of steps"

            self._tested.add(kind)
            if why is not None:
                self._compiled_loss = None
                self.notes.append(
                    f"train.fast.compile: the phase '{self.phase.name}' runs without"
                    f" compilation: {why}"
                )

        if self._compiled_loss is None or kind not in self._tested:
            return self.phase.loss(batch)

        # run only compiled code that was tested
        with torch.compiler.set_stance("eager_on_recompile"):
            return self._run_compiled(batch)

    def _kind(self, batch: Batch) -> Hashable:
        """The key of a kind of call: the batch's shapes, and the method's hashable attributes, such
        as its stage.
        """
        own = []
        for name, value in vars(self.method).items():
            # unhashable: tables of modules and the like, which do not change
            with suppress(TypeError):
                own.append((name, value, hash(value)))

        return tuple(
            (name, tuple(t.shape), t.dtype, t.stride()) for name, t in batch.items()
        ), tuple(own)

    def _run_compiled(self, batch: Batch) -> Losses:
        if self._compiled_loss is None:
            return self.phase.loss(batch)
        losses, left = self._compiled_loss(dict(batch))
        batch.update(left)
        return losses

    def _failure(self, batch: Batch) -> str | None:
        """Test the compiled loss on a batch; returns why it cannot be used, or None. Restores all
        state.
        """
        python = PythonState(self.method)
        expected = self._outcome(self.phase.loss, batch)
        try:
            python.expect_same()
            with torch._dynamo.config.patch(LIMITS), _silence_torch():
                found = self._outcome(self._run_compiled, batch)
        except Exception as error:  # any error of the compiler: training continues uncompiled
            return f"{type(error).__name__}: {_explanation(error)}"[:200]
        finally:
            python.restore()

        wrong = []
        for name, tolerance in TOLERANCE.items():
            distance = _distance(expected[name], found[name])
            if not distance <= tolerance:  # nan too
                wrong.append(f"{name} by {distance:.2g}")

        return f"the compiled phase gives different values: {', '.join(wrong)}" if wrong else None

    def _outcome(
        self, loss: Callable[[Batch], Losses], batch: Batch
    ) -> dict[str, dict[str, Tensor]]:
        """Losses, gradients, added images and buffers of one call. Restores buffers and random
        numbers.
        """
        inside = Batch(batch)
        devices = {image.device for image in batch.values() if image.is_cuda}
        places = []
        for part in self.method.modules():
            for name, buffer in part._buffers.items():
                if buffer is not None:
                    places.append((part, name, buffer))

        before = TensorState({"buffers": [tensor for *_, tensor in places]})
        weights = trained_by(self.phase)
        try:
            with torch.random.fork_rng(devices), torch.enable_grad():
                losses = check_losses(self.method, self.phase, loss(inside))
                total = torch.stack([each.float() for each in losses.values()]).sum()
                gradients = torch.autograd.grad(total, weights, allow_unused=True)

            found = {str(number): g for number, g in enumerate(gradients) if g is not None}
            images = _added_images(inside, batch)
            return {
                "losses": {name: each.detach() for name, each in losses.items()},
                "images": {name: image.detach() for name, image in images.items()},
                "buffers": {name: tensor.clone() for name, tensor in self.method.named_buffers()},
                "gradients": found,
            }
        finally:
            for part, name, tensor in places:  # a step may have replaced the tensors
                part._buffers[name] = tensor
            before.restore()


def _added_images(batch: dict[str, Tensor], before: dict[str, Tensor]) -> dict[str, Tensor]:
    """The images of a batch that were added or replaced."""
    return {name: image for name, image in batch.items() if image is not before.get(name)}


def _explanation(error: BaseException) -> str:
    """The line that explains an error of the compiler, from the innermost cause."""
    inner: BaseException | None = error
    while inner is not None:
        cause = inner
        inner = getattr(cause, "inner_exception", None) or cause.__cause__

    lines = [line.strip() for line in str(cause).split("\n") if line.strip()]
    for line in lines:
        if line.startswith("Explanation: "):
            return line.removeprefix("Explanation: ")

    return lines[0] if lines else "no message"


def _compile_loss(loss: Callable[[Batch], Losses], backend: str) -> Callable:
    """Compile a loss as a function from a dict of images to (losses, images added to the batch).

    Draws random numbers as uncompiled code does, so that a seed gives the same step and steps can
    be compared.
    """

    def run(images: dict[str, Tensor]) -> tuple[Losses, dict[str, Tensor]]:
        inside = Batch(images)
        losses = loss(inside)
        return losses, _added_images(inside, images)

    # torch caches by code object: a copy of it has its own cache and its own limit of
    # recompilations.
    run.__code__ = run.__code__.replace(co_name=f"run_{id(run)}")
    options: dict[str, Any] | None = None
    if backend == "inductor":
        options = {"fallback_random": True}

    return torch.compile(run, fullgraph=True, dynamic=False, backend=backend, options=options)


@contextmanager
def _silence_torch() -> Iterator[None]:
    """Suppress torch's long messages about code that cannot be compiled; a note says it in one
    line.
    """
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings(action="ignore"):
            yield
    finally:
        logging.disable(before)


def _distance(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    """The Euclidean distance between two sets of tensors, relative to the norm of the first."""
    if one.keys() != other.keys() or any(one[name].shape != other[name].shape for name in one):
        return float("inf")

    size = 0.0
    apart = 0.0
    for name, tensor in one.items():
        a = tensor.double().nan_to_num()
        b = other[name].double().nan_to_num()
        size += float(a.square().sum())
        apart += float((a - b).square().sum())

    return apart**0.5 / max(size**0.5, 1e-6)


def _own_functions(kind: type[Any] = torch.autograd.Function) -> Iterator[type[Any]]:
    """Yield all subclasses of torch.autograd.Function outside torch."""
    for each in kind.__subclasses__():
        if not each.__module__.startswith("torch."):
            yield each
        yield from _own_functions(each)
