"""How near a training step comes to its floor: its operations, each alone and at its best, added
up.

A step is recorded operator by operator. A convolution takes as long as the quickest way to it that
is known: torch's, channels-last or contiguous or with weights packed beforehand, or gantk's own;
the gradients of input and of weights each for themselves. A matrix product is as called. All else
takes as long as a copy of the bytes that it reads and writes; views, and memory that is only asked
for, nothing. That copy stays in the cache as far as it fits; in the floor `memory` a byte costs no
less than in a copy that no cache holds. Step and floors take turns: a share is floor / step, round
by round. Untested on CUDA.

    python benchmarks/floor.py [WHAT]... [--device cuda] [--set KEY=VALUE] [--seconds 60] [--json
    FILE]
"""

import re
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from functools import partial
from statistics import median
from typing import Any
from unittest.mock import patch

import numpy as np
import step_speed
import torch
from harness import ROUNDS, RecipeStep, Turn, in_turns, ratio, ratio_text, synchronize, table
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_leaves, tree_map_only

from gantk.nets import kernels, winograd
from gantk.recipe.load import Recipe

# timed alone; all else by its bytes
ALONE = ("mm", "addmm", "bmm", "baddbmm", "convolution", "convolution_backward")
BEYOND = 1 << 29  # bytes of a buffer that leaves no last-level cache holding two of them
BYTES = [1 << power for power in range(12, 27, 2)]  # read and written by the copies that are timed
# steps; calls, of which the quickest counts; operations told, and shown
RECORDED, TAKEN, KEPT, SHOWN = 3, 3, 20, 12
KEYS = ("name", "arguments", "calls", "recorded_ms", "floor_ms", "ways")  # of an operation's row
# memory that nobody writes yet
ASKED = ("empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided")
# writes and does not read it
REPLACED = ("copy_", "fill_", "zero_", "normal_", "uniform_", "bernoulli_", "random_")


class Called:
    """All calls of an operator with arguments of one kind (tensors without their values), and their
    seconds.
    """

    def __init__(self, name: str, arguments: list, moved: int):
        self.name, self.arguments, self.moved, self.calls, self.seconds = (
            name,
            arguments,
            moved,
            0,
            0.0,
        )


class Recorder(TorchDispatchMode):
    """Inside, every operation is counted and timed; gradients that are added up are so beside, and
    not in place.
    """

    def __init__(self, device: torch.device):
        super().__init__()
        self.device, self.found, self.patches = device, {}, ExitStack()
        for product, name in (
            (p, n) for p in (winograd.Winograd, kernels.Product) for n in ("forward", "backward")
        ):
            own = staticmethod(partial(self.own, getattr(product, name)))
            self.patches.enter_context(patch.object(product, name, own))

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        given, call = [*args, *(kwargs or {}).values()], partial(function, *args, **(kwargs or {}))
        return self.noted(function.overloadpacket.__name__, given, call, function._schema)

    def own(self, function: Callable, ctx: Any, *given: Any) -> Any:
        """A convolution in a way of gantk's own, noted as the one operation that it is."""
        backward = len(given) == 1
        x, weight, bias, windows, transposed = (
            (*ctx.saved_tensors[:3], ctx.windows, ctx.transposed) if backward else given
        )
        dtype, ones = (
            given[0].dtype if backward else kernels.precision(x),
            [1] * len(windows.stride),
        )
        said = [given[0], x, weight, None] if backward else [x, weight, bias]
        with _disable_current_modes():
            said = tree_map_only(Tensor, lambda t: t.to(dtype), said)
            said += [[*windows.stride], [*windows.padding], ones, transposed, [0] * len(ones), 1]
            said += [[*ctx.needs_input_grad[:3]]] if backward else []
            return self.noted(
                "convolution" + "_backward" * backward, said, partial(function, ctx, *given)
            )

    def noted(self, name: str, given: list, call: Callable[[], Any], schema: Any = None) -> Any:
        """What the call returns, after its time and what it was called with are noted."""
        synchronize(self.device)
        began = time.perf_counter()
        out = call()
        synchronize(self.device)
        took, kinds = (
            time.perf_counter() - began,
            tree_map_only(Tensor, lambda t: t.detach().to("meta"), given),
        )
        new = Called(name, kinds, moved(name, schema, given, out) if schema else 0)
        one = self.found.setdefault(f"{name} {kinds}", new)
        one.calls, one.seconds = one.calls + 1, one.seconds + took
        return out


def moved(name: str, schema: Any, given: list, out: Any) -> int:
    """Bytes that an operation reads and writes; what is expanded counts once."""
    if name in ASKED or any(
        each.alias_info and not each.alias_info.is_write for each in schema.returns
    ):
        return 0
    about = [each.alias_info and each.alias_info.is_write for each in schema.arguments]
    changed = [each for each, written in zip(given, about, strict=False) if written]
    found = [
        each
        for each in tree_leaves([given[name in REPLACED :], changed or out])
        if isinstance(each, Tensor)
    ]
    sizes = [[n for n, stride in zip(t.shape, t.stride(), strict=True) if stride] for t in found]
    return sum(t.element_size() * int(np.prod(size)) for t, size in zip(found, sizes, strict=True))


class Alone:
    """A recorded operation by itself; `best` is the quickest way to each of its parts."""

    def __init__(self, called: Called, device: torch.device):
        self.called, self.best = called, {}
        for part, ways in ways_to(called.name, called.arguments, device).items():
            taken = {}
            for name, way in ways.items():
                with suppress(RuntimeError):  # not offered for these
                    taken[name] = quickest(Turn(way, device))
            name = min(taken, key=taken.__getitem__)
            self.best[part + name] = Turn(ways[name], device)

    def floor(self, per_byte: Callable[[int], float], from_memory: float) -> list[float]:
        """Seconds of a step's calls at their best, bytes from the cache and from memory."""
        called, warm = self.called, per_byte(self.called.moved)
        copies = [called.moved * each for each in (warm, max(warm, from_memory))]
        alone = [sum(map(quickest, self.best.values()))] * 2 if self.best else copies
        return [each * called.calls / RECORDED for each in alone]


def quickest(turn: Turn) -> float:
    turn.take()
    return min(turn.take() for _ in range(TAKEN))


def ways_to(name: str, arguments: list, device: torch.device) -> dict[str, dict[str, Callable]]:
    """For each part (a convolution's gradients are two) the ways to it by name; {} for what is
    counted by its bytes.
    """
    if name not in ALONE:
        return {}

    def noise(k):
        return torch.empty_strided(k.shape, k.stride(), dtype=k.dtype, device=device).normal_()  # noqa: E731

    given, operator = tree_map_only(Tensor, noise, arguments), getattr(torch.ops.aten, name)
    if not name.startswith("convolution"):
        return {"": {"as called": partial(operator, *given)}}
    backward = name == "convolution_backward"
    x, weight, bias, *how = [*given[1:3], None, *given[4:10]] if backward else given
    stride, padding, dilation, transposed, extra, groups = how
    last = partial(Tensor.contiguous, memory_format=kernels.CHANNELS_LAST[len(stride)])
    torchs, own = (
        torch.ops.aten.convolution,
        kernels.transposed_convolution if transposed else winograd.convolution,
    )
    kinds = {"contiguous": (Tensor.contiguous, torchs, how), "channels-last": (last, torchs, how)}
    kinds |= {"own": (last, own, how[:2])} if {*dilation, groups, *extra} == {0, 1} else {}
    parts = ["input's gradient, ", "weights' gradient, "] if backward else [""]
    ways: dict[str, dict[str, Callable]] = {part: {} for part in parts}
    for form, (laid, convolve, options) in kinds.items():
        for number, part in enumerate(ways):
            inputs = [laid(each).detach() for each in (x, weight)]
            ways[part][form] = partial(convolve, *inputs, bias, *options)
            # of one input alone: a function of gantk's own computes the gradients of all that want
            # one
            if backward:
                inputs[number].requires_grad_()
                made = ways[part][form](), inputs[number], laid(given[0])
                ways[part][form] = partial(torch.autograd.grad, *made, retain_graph=True)
    if device.type == "cpu" and len(stride) == 2 and not transposed and not backward:
        a, place = last(x), (padding, stride, dilation, groups)
        packed = torch._C._nn.mkldnn_reorder_conv2d_weight(
            last(weight).to_mkldnn(), *place, a.shape
        )
        ways[""]["packed"] = partial(
            torch.ops.mkldnn._convolution_pointwise, a, packed, bias, *place, "none", [], ""
        )
    return {
        part: each
        for number, (part, each) in enumerate(ways.items())
        if not backward or given[10][number]
    }


def measure(name: str, recipe: Recipe, options) -> dict[str, Any]:
    """A row: samples of step and floor, their ratio, and every operation, with what it takes within
    a step.
    """
    step = RecipeStep.build(recipe, options.set, options.device)
    turn = step.turn()
    turn.settle()
    with (recorder := Recorder(step.device)).patches, recorder:
        for _ in range(RECORDED):
            step()
    found = [Alone(called, step.device) for called in recorder.found.values()]
    pairs = [
        torch.ones(2, size // 2, dtype=torch.uint8, device=step.device)
        for size in [*BYTES, 2 * BEYOND]
    ]

    def floors() -> list[list[float]]:
        *per_byte, beyond = [
            quickest(Turn(partial(a.copy_, b), step.device)) / 2 / len(a) for a, b in pairs
        ]
        return [
            one.floor(lambda size: float(np.interp(size, BYTES, per_byte)), beyond) for one in found
        ]

    rounds = int(
        np.clip(options.seconds / ((1 + TAKEN) * np.sum(floors(), 0)[0] + turn.take()), *ROUNDS)
    )
    samples = in_turns({"step": turn.take, "floor": floors}, rounds)
    floor, memory = np.sum(samples["floor"], 1).T.tolist()
    seconds, alone = (
        samples | {"floor": floor, "memory": memory},
        np.median(samples["floor"], 0)[:, 0],
    )
    rows = []
    for one, least in zip(found, alone, strict=True):
        called = one.called
        given = str(called.arguments)
        said = re.sub(
            r"tensor\(\.+, device='meta', size=(\([^)]*\))(?:, dtype=torch)?([^)]*)\)",
            r"\1\2",
            given,
        )
        values = called.name, said[:160], called.calls, 1e3 * called.seconds, 1e3 * RECORDED * least
        rows.append(
            dict(
                zip(
                    KEYS,
                    [*values[:2], *(each / RECORDED for each in values[2:]), [*one.best]],
                    strict=True,
                )
            )
        )
    rows.sort(key=lambda row: row["floor_ms"] - row["recorded_ms"])
    share, of_memory = (ratio(each, seconds["step"]) for each in (floor, memory))
    found = {
        "share": share,
        "share_from_memory": of_memory,
        "seconds": seconds,
        "operations": rows[:KEPT],
    }
    return {"name": name, "set": options.set} | found


def markdown(rows: list[dict]) -> str:
    """Step, floor and share; of the last row also the operations furthest beyond their floor."""
    cells = []
    for row in rows:
        taken, shares = (
            row["seconds"].values(),
            [ratio_text(row.get(key)) for key in ("share", "share_from_memory")],
        )
        cells.append(
            [
                " ".join([row["name"], *row["set"]]),
                *(f"{median(each):.4f}" for each in taken),
                *shares,
            ]
        )
    told = [
        [f"{one[k]:.2f}" if "_ms" in k else one[k] for k in KEYS]
        for one in rows[-1]["operations"][:SHOWN]
    ]
    heads = ["recipe", "step, s", "floor, s", "memory, s", "share", "share from memory"]
    return f"{table(heads, cells)}\n\n{table(KEYS, told)}"


if __name__ == "__main__":
    sys.exit(step_speed.main(None, __doc__, measure, markdown))
