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
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_leaves, tree_map_only

from gantk.machine.device import CHANNELS_LAST
from gantk.nets import kernels, winograd
from gantk.recipe.load import Recipe
from gantk_bench.harness import (
    ROUNDS,
    RecipeStep,
    Turn,
    in_turns,
    ratio,
    ratio_text,
    synchronize,
    table,
)

# timed alone; all else by its bytes
TIMED_ALONE = ("mm", "addmm", "bmm", "baddbmm", "convolution", "convolution_backward")
BEYOND_CACHE_BYTES = (
    1 << 29
)  # bytes of a buffer that leaves no last-level cache holding two of them
COPY_BYTES = [
    1 << power for power in range(12, 27, 2)
]  # read and written by the copies that are timed
RECORDED_STEPS = 3  # steps
TIMED_CALLS = 3  # calls, of which the quickest counts
MAX_RECORDED_OPERATIONS = 20  # operations in a row
MAX_SHOWN_OPERATIONS = 12  # operations in the table
META_TENSOR = re.compile(r"tensor\(\.+, device='meta', size=(\([^)]*\))(?:, dtype=torch)?([^)]*)\)")
KEYS = ("name", "arguments", "calls", "recorded_ms", "floor_ms", "ways")  # of an operation's row
# memory that nobody writes yet
ALLOCATIONS = ("empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided")
# writes and does not read it
WRITE_ONLY = ("copy_", "fill_", "zero_", "normal_", "uniform_", "bernoulli_", "random_")


class Called:
    """All calls of an operator with arguments of one kind (tensors without their values), and their
    seconds.
    """

    def __init__(self, name: str, arguments: list, moved: int):
        self.name = name
        self.arguments = arguments
        self.moved = moved  # bytes
        self.calls = 0
        self.seconds = 0.0


class Recorder(TorchDispatchMode):
    """Inside, every operation is counted and timed; gradients that are added up are so beside, and
    not in place.
    """

    def __init__(self, device: torch.device):
        super().__init__()
        self.device = device
        self.found = {}
        self.patches = ExitStack()
        for product, name in (
            (p, n) for p in (winograd.Winograd, kernels.Product) for n in ("forward", "backward")
        ):
            own = staticmethod(partial(self.own, getattr(product, name)))
            self.patches.enter_context(patch.object(product, name, own))

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        given = [*args, *(kwargs or {}).values()]
        call = partial(function, *args, **(kwargs or {}))
        return self.noted(function.overloadpacket.__name__, given, call, function._schema)

    def own(self, function: Callable, ctx: Any, *given: Any) -> Any:
        """A convolution in a way of gantk's own, noted as the one operation that it is."""
        backward = len(given) == 1
        if backward:
            x, weight, bias, windows, transposed = (
                *ctx.saved_tensors[:3],
                ctx.windows,
                ctx.transposed,
            )
        else:
            x, weight, bias, windows, transposed = given
        dtype = given[0].dtype if backward else kernels.precision(x)
        ones = [1] * len(windows.stride)
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
        seconds = time.perf_counter() - began
        kinds = tree_map_only(Tensor, lambda t: t.detach().to("meta"), given)
        new = Called(name, kinds, moved(name, schema, given, out) if schema else 0)
        called = self.found.setdefault(f"{name} {kinds}", new)
        called.calls += 1
        called.seconds += seconds
        return out


def moved(name: str, schema: Any, given: list, out: Any) -> int:
    """Bytes that an operation reads and writes; what is expanded counts once."""
    returns_view = any(each.alias_info and not each.alias_info.is_write for each in schema.returns)
    if name in ALLOCATIONS or returns_view:
        return 0
    is_written = [each.alias_info and each.alias_info.is_write for each in schema.arguments]
    changed = [each for each, written in zip(given, is_written, strict=False) if written]
    read = given[1:] if name in WRITE_ONLY else given
    tensors = [each for each in tree_leaves([read, changed or out]) if isinstance(each, Tensor)]
    return sum(map(stored_bytes, tensors))


def stored_bytes(tensor: Tensor) -> int:
    """Bytes of the elements; an expanded dimension counts once."""
    sizes = zip(tensor.shape, tensor.stride(), strict=True)
    return tensor.element_size() * int(np.prod([size for size, stride in sizes if stride]))


class Alone:
    """A recorded operation by itself; `best` is the quickest way to each of its parts."""

    def __init__(self, called: Called, device: torch.device):
        self.called = called
        self.best: dict[str, Turn] = {}
        for part, ways in ways_to(called.name, called.arguments, device).items():
            taken = {}
            for name, way in ways.items():
                with suppress(RuntimeError):  # not offered for these
                    taken[name] = quickest(Turn(way, device))
            name = min(taken, key=taken.__getitem__)
            self.best[part + name] = Turn(ways[name], device)

    def floor(self, per_byte: Callable[[int], float], from_memory: float) -> list[float]:
        """Seconds of a step's calls at their best, bytes from the cache and from memory."""
        if self.best:
            seconds = sum(map(quickest, self.best.values()))
            both = [seconds, seconds]
        else:
            size = self.called.moved
            warm = per_byte(size)
            both = [size * warm, size * max(warm, from_memory)]
        return [each * self.called.calls / RECORDED_STEPS for each in both]


def quickest(turn: Turn) -> float:
    turn.take()
    return min(turn.take() for _ in range(TIMED_CALLS))


def ways_to(name: str, arguments: list, device: torch.device) -> dict[str, dict[str, Callable]]:
    """For each part (a convolution's gradients are two) the ways to it by name; {} for what is
    counted by its bytes.
    """
    if name not in TIMED_ALONE:
        return {}

    def noise(k):
        return torch.empty_strided(k.shape, k.stride(), dtype=k.dtype, device=device).normal_()

    given = tree_map_only(Tensor, noise, arguments)
    if not name.startswith("convolution"):
        return {"": {"as called": partial(getattr(torch.ops.aten, name), *given)}}
    return ways_to_convolve(name, given, device)


def ways_to_convolve(
    name: str, given: list, device: torch.device
) -> dict[str, dict[str, Callable]]:
    """The same for a convolution, or for those of its gradients that were asked for."""
    backward = name == "convolution_backward"
    x, weight, bias, *how = [*given[1:3], None, *given[4:10]] if backward else given
    stride, padding, dilation, transposed, extra, groups = how
    last = partial(Tensor.contiguous, memory_format=CHANNELS_LAST[len(stride)])
    torchs = torch.ops.aten.convolution
    kinds = {"contiguous": (Tensor.contiguous, torchs, how), "channels-last": (last, torchs, how)}
    if {*dilation, groups, *extra} == {0, 1}:
        own = kernels.transposed_convolution if transposed else winograd.convolution
        kinds["own"] = (last, own, how[:2])
    parts = ["input's gradient, ", "weights' gradient, "] if backward else [""]
    ways: dict[str, dict[str, Callable]] = {part: {} for part in parts}
    for form, (laid, convolve, options) in kinds.items():
        for number, part in enumerate(ways):
            inputs = [laid(each).detach() for each in (x, weight)]
            ways[part][form] = partial(convolve, *inputs, bias, *options)
            if backward:
                # of one input alone: gantk's own functions compute the gradients of all inputs
                # that want one
                inputs[number].requires_grad_()
                output = ways[part][form]()
                gradient = laid(given[0])
                ways[part][form] = partial(
                    torch.autograd.grad, output, inputs[number], gradient, retain_graph=True
                )
    if backward:
        asked = given[10]
        return {part: ways[part] for number, part in enumerate(parts) if asked[number]}
    if device.type == "cpu" and len(stride) == 2 and not transposed:
        image = last(x)
        place = (padding, stride, dilation, groups)
        packed = torch._C._nn.mkldnn_reorder_conv2d_weight(
            last(weight).to_mkldnn(), *place, image.shape
        )
        ways[""]["packed"] = partial(
            torch.ops.mkldnn._convolution_pointwise, image, packed, bias, *place, "none", [], ""
        )
    return ways


def measure(name: str, recipe: Recipe, options) -> dict[str, Any]:
    """A row: samples of step and floor, their ratio, and every operation, with what it takes within
    a step.
    """
    step = RecipeStep.build(recipe, options.set, options.device)
    turn = step.turn()
    turn.settle()
    with (recorder := Recorder(step.device)).patches, recorder:
        for _ in range(RECORDED_STEPS):
            step()
    found = [Alone(called, step.device) for called in recorder.found.values()]
    pairs = [
        torch.ones(2, size // 2, dtype=torch.uint8, device=step.device)
        for size in [*COPY_BYTES, 2 * BEYOND_CACHE_BYTES]
    ]

    def floors() -> list[list[float]]:
        *per_byte, beyond = [
            quickest(Turn(partial(a.copy_, b), step.device)) / 2 / len(a) for a, b in pairs
        ]
        return [
            one.floor(lambda size: float(np.interp(size, COPY_BYTES, per_byte)), beyond)
            for one in found
        ]

    seconds_a_round = (1 + TIMED_CALLS) * np.sum(floors(), 0)[0] + turn.take()
    rounds = int(np.clip(options.seconds / seconds_a_round, *ROUNDS))
    samples = in_turns({"step": turn.take, "floor": floors}, rounds)
    floor, memory = np.sum(samples["floor"], 1).T.tolist()
    seconds = samples | {"floor": floor, "memory": memory}
    alone = np.median(samples["floor"], 0)[:, 0]
    rows = [operation_row(one, least) for one, least in zip(found, alone, strict=True)]
    rows.sort(key=lambda row: row["floor_ms"] - row["recorded_ms"])
    return {
        "name": name,
        "set": options.set,
        "share": ratio(floor, seconds["step"]),
        "share_from_memory": ratio(memory, seconds["step"]),
        "seconds": seconds,
        "operations": rows[:MAX_RECORDED_OPERATIONS],
    }


def operation_row(one: Alone, floor_seconds: float) -> dict[str, Any]:
    """What an operation takes within a step, as recorded and at its floor."""
    called = one.called
    arguments = META_TENSOR.sub(r"\1\2", str(called.arguments))
    recorded_ms = 1e3 * called.seconds / RECORDED_STEPS
    calls = called.calls / RECORDED_STEPS
    values = [called.name, arguments[:160], calls, recorded_ms, 1e3 * floor_seconds, [*one.best]]
    return dict(zip(KEYS, values, strict=True))


def markdown(rows: list[dict]) -> str:
    """Step, floor and share; of the last row also the operations furthest beyond their floor."""
    cells = []
    for row in rows:
        medians = [f"{median(samples):.4f}" for samples in row["seconds"].values()]
        shares = [ratio_text(row.get(key)) for key in ("share", "share_from_memory")]
        cells.append([" ".join([row["name"], *row["set"]]), *medians, *shares])
    operations = [
        [f"{one[key]:.2f}" if "_ms" in key else one[key] for key in KEYS]
        for one in rows[-1]["operations"][:MAX_SHOWN_OPERATIONS]
    ]
    heads = ["recipe", "step, s", "floor, s", "memory, s", "share", "share from memory"]
    return f"{table(heads, cells)}\n\n{table(KEYS, operations)}"


if __name__ == "__main__":
    sys.exit(step_speed.main(None, __doc__, measure, markdown))
