"""What training steps spent their time on, out of a Chrome trace: categories that add up to the steps.

On a CPU, every instant of the traced steps belongs to what the main thread had begun last: an operator, or a range that
`gantk.training.profiling` marked. On a GPU an instant belongs to the kernel that runs; where none does, to what the
host was doing meanwhile, and that is overhead unless it waits for data, prepares a batch or logs.
"""

from __future__ import annotations

import bisect
import re
from collections import defaultdict, deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import cache
from itertools import groupby
from typing import Any

MARK = "gantk: "  # what names of marked ranges begin with
STEPS, PHASE, LOSSES, FORWARD, MODULE = "steps", "phase ", "losses and gradients", "forward", "in "
WAIT, PREPARE, OPTIMIZER, AVERAGE = "waiting for data", "batch preparation", "optimizer", "moving average"
LOGGING, APART, COMPUTE = "logging", "samples and checkpoints", "compute"
COPIES, NORMS, POINTWISE, OVERHEAD = "copies and casts", "norms", "pointwise and sums", "python and launches"
CONVOLUTIONS, RANKS = "convolutions", "talk between ranks"
WHOLE_STEPS = "whole steps"  # the phase of what is not known to belong to one: a step replayed as one graph
FIXED = (WAIT, OPTIMIZER, AVERAGE, LOGGING, APART)  # ranges that count as a whole, whatever runs in them
HOST = (WAIT, PREPARE, AVERAGE, LOGGING, APART)  # what the host does while a GPU idles, told apart from overhead

LOOKS = (  # operators that look at memory in another way, claim it, or read a number
    "empty|new_empty|as_strided|view|reshape|_unsafe_view|_reshape_alias|resize_|set_|detach|expand|alias|permute"
    "|transpose|t$|numpy_T|movedim|select|slice|narrow|split|chunk|unbind|unsqueeze|squeeze|flatten|item$|_local_scalar"
    "|is_nonzero|result_type|lift|requires_grad|size|stride|conj|resolve"
)
KINDS = (  # the first pattern that is found in an operator's or kernel's name decides
    (OVERHEAD, r"^autograd::|^torch::autograd|Backward\d+$|^Optimizer\.|^cuda|^ProfilerStep"),
    (RANKS, r"gloo|nccl|c10d|all_?reduce|broadcast_$"),
    (None, rf"^aten::({LOOKS})|^detach"),
    (NORMS, r"(batch|instance|group|layer)_?norm|Norm|bn_(fw|bw)|norm_(fwd|bwd)"),
    (CONVOLUTIONS, r"^(Transposed)?Product|^Offset"),  # of gantk.training.accelerate.kernels
    (CONVOLUTIONS, r"conv(?!ert)|cudnn|fprop|dgrad|wgrad|xmma|implicit|slow_conv|winograd"),
    ("resampling and padding", r"upsample|interpolate|::pad|_pad|pool|grid_sampl|pixel_(un)?shuffle|::roll|::flip"),
    ("matrix products", r"::(add|b|addb|badd)?mm|matmul|linear|einsum|gemm|gemv|cublas|cutlass"),
    ("random numbers", r"rand|normal_|bernoulli|dropout|uniform_|distribution_"),
    (COPIES, r"::(to|_to_copy|copy_?|contiguous|clone|cat|stack|_foreach_copy_?|repeat)$"),
    (COPIES, r"[Mm]emcpy|[Mm]emset|[Cc]opy|CatArray|nchwToNhwc|nhwcToNchw"),
)


@dataclass(frozen=True)
class State:
    """What an instant belongs to, as the ranges and operators around it say."""

    context: str = COMPUTE
    phase: str = ""
    direction: str = ""  # forward or backward, inside a phase's losses and gradients
    kind: str | None = None
    operator: str = ""
    module: tuple[str, str] = ("", "")  # path, class
    shape: str = ""

    @property
    def category(self) -> str:
        if self.context in FIXED:
            return self.context
        if self.context == PREPARE and self.kind != COPIES:
            return PREPARE
        if self.kind == POINTWISE and "Norm" in self.module[1]:
            return NORMS  # one that is put together from other operators
        return self.kind or OVERHEAD


@dataclass(frozen=True)
class Segment:
    """A stretch of time in microseconds."""

    start: float
    end: float
    state: State


@dataclass
class Costs:
    """Seconds of `steps` traced steps. `categories`, `phases` and `operators` each add up to `seconds`."""

    steps: int
    seconds: float = 0.0
    apart: float = 0.0  # seconds of samples, scores and checkpoints in between, which are no part of a step
    busy: float | None = None  # seconds in which a GPU was at work
    categories: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    directions: dict[tuple[str, str], float] = field(default_factory=lambda: defaultdict(float))  # category, direction
    phases: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    operators: dict[tuple[str, ...], float] = field(default_factory=lambda: defaultdict(float))
    places: dict[tuple[str, ...], dict[str, float]] = field(default_factory=dict)  # of each operator

    def add(self, seconds: float, state: State, category: str | None = None) -> None:
        """Count a stretch of time."""
        category = category or state.category
        if category == APART:
            self.apart += seconds
            return
        self.seconds += seconds
        self.categories[category] += seconds
        if state.direction and state.context == COMPUTE:
            self.directions[category, state.direction] += seconds
        self.phases[state.phase or "around the phases"] += seconds
        known = category not in FIXED and category not in (OVERHEAD, PREPARE)
        key = (category, state.operator if known else "", state.direction if known else "", state.phase)
        self.operators[key] += seconds
        place, found = f"{state.module[0]} {state.shape}".strip(), self.places.setdefault(key, {})
        found[place] = found.get(place, 0.0) + seconds


def costs(events: Iterable[dict[str, Any]], steps: int) -> Costs:
    """The costs of a Chrome trace's `traceEvents`, in the range that is marked as STEPS; ValueError where none is."""
    events = [event for event in events if event.get("ph") == "X"]
    window = next((e for e in events if e["name"] == MARK + STEPS and e.get("cat") == "user_annotation"), None)
    if window is None:
        raise ValueError("the trace has no range of marked steps")
    start, end = window["ts"], window["ts"] + window["dur"]
    threads: dict[Any, list[dict[str, Any]]] = defaultdict(list)
    for event in events:
        if event.get("cat") in ("cpu_op", "user_annotation") and start <= event["ts"] < end:
            threads[event["pid"], event["tid"]].append(event)
    main = threads.pop((window["pid"], window["tid"]))
    modules: dict[int, tuple[str, str]] = {}
    launched: dict[int, State] = {}
    host = list(_segments(main, start, end, State(), modules, launched))
    for others in threads.values():  # a GPU's backward pass has a thread of its own
        for phase, part in groupby(sorted(others, key=lambda e: e["ts"]), lambda e: _phase_at(host, e["ts"])):
            first = State(phase=phase, direction="backward")
            deque(_segments(list(part), start, end, first, modules, launched), maxlen=0)
    kernels = [e for e in events if e.get("cat") in ("kernel", "gpu_memcpy", "gpu_memset") and start <= e["ts"] < end]
    found = Costs(steps)
    device = list(_device(kernels, start, end, launched)) if kernels else []
    for segment in device:
        found.add((segment.end - segment.start) / 1e6, segment.state)
    found.busy = sum(segment.end - segment.start for segment in device) / 1e6 if kernels else None
    for segment in _between(host, device) if kernels else host:
        context = segment.state.context
        category = (context if context in HOST else OVERHEAD) if kernels else None
        found.add((segment.end - segment.start) / 1e6, segment.state, category)
    return found


def _segments(
    events: list[dict[str, Any]], start: float, end: float, first: State, modules: dict, launched: dict
) -> Iterator[Segment]:
    """One thread's time from `start` to `end`, each stretch with the state of the innermost range or operator.

    `modules` learns which module a sequence number came from, and tells it to the backward pass; `launched` learns the
    state in which each external id was.
    """
    stack: list[tuple[float, State]] = [(end, first)]
    now = start
    for event in sorted(events, key=lambda e: (e["ts"], -e["dur"])):
        begin = max(event["ts"], now)
        while len(stack) > 1 and stack[-1][0] <= begin:
            until, state = stack.pop()
            if until > now:
                yield Segment(now, until, state)
                now = until
        if begin > now:
            yield Segment(now, begin, stack[-1][1])
            now = begin
        state = _inside(stack[-1][1], event, modules)
        launched[event.get("args", {}).get("External id", -1)] = state
        stack.append((max(now, min(event["ts"] + event["dur"], stack[-1][0])), state))  # clocks are rounded
    while stack:
        until, state = stack.pop()
        if until > now:
            yield Segment(now, until, state)
            now = until


def _phase_at(host: list[Segment], moment: float) -> str:
    """Which phase the main thread was in."""
    return host[max(0, bisect.bisect(host, moment, key=lambda segment: segment.start) - 1)].state.phase


def _inside(outer: State, event: dict[str, Any], modules: dict[int, tuple[str, str]]) -> State:
    """The state inside a range or operator."""
    name, args = event["name"], event.get("args", {})
    if name.startswith(MARK):
        return _marked(outer, name.removeprefix(MARK))
    number = args.get("Sequence number")
    if name.startswith("autograd::engine::evaluate_function"):
        return replace(outer, direction="backward", kind=None, operator="", module=modules.get(number, ("", "")))
    if number is not None and outer.direction == "forward":
        modules[number] = outer.module
    kind = kind_of(name)
    if kind in (None, OVERHEAD) or (outer.kind and kind != COPIES) or outer.kind == COPIES:
        return outer
    return replace(outer, kind=kind, operator=name, shape=_shape(args))


def _marked(outer: State, label: str) -> State:
    if label.startswith(PHASE):
        return replace(outer, context=OPTIMIZER, phase=label.removeprefix(PHASE), direction="")
    if label.startswith(MODULE):
        path, _, kind = label.removeprefix(MODULE).partition(" ")
        return replace(outer, module=(path, kind), kind=None, operator="")
    if label == LOSSES:
        return replace(outer, context=COMPUTE)
    if label == FORWARD:
        return replace(outer, direction="forward")
    return outer if label == STEPS else replace(outer, context=label)


def _device(kernels: list[dict[str, Any]], start: float, end: float, launched: dict[int, State]) -> Iterator[Segment]:
    """The stretches in which a GPU is at work; of kernels that run at once, the one that began first counts."""
    now = start
    for event in sorted(kernels, key=lambda e: e["ts"]):
        begin, until = max(event["ts"], now), min(event["ts"] + event["dur"], end)
        if until > begin:
            state = launched.get(event.get("args", {}).get("External id", -2), State(phase=WHOLE_STEPS))
            if state.kind is None:
                state = replace(state, kind=kind_of(event["name"]) or POINTWISE, operator=event["name"])
            yield Segment(begin, until, state)
            now = until


def _between(host: list[Segment], device: list[Segment]) -> Iterator[Segment]:
    """The host's time without that in which the device was at work."""
    place = 0
    for segment in host:
        now = segment.start
        while place < len(device) and device[place].end <= now:
            place += 1
        look = place
        while look < len(device) and device[look].start < segment.end:
            if device[look].start > now:
                yield Segment(now, device[look].start, segment.state)
            now = max(now, device[look].end)
            look += 1
        if now < segment.end:
            yield Segment(now, segment.end, segment.state)


@cache
def kind_of(name: str) -> str | None:
    """The category of an operator or kernel by its name; None for those that only look at memory or claim it."""
    return next((kind for kind, pattern in KINDS if re.search(pattern, name)), POINTWISE)


def _shape(args: dict[str, Any]) -> str:
    """The shape of an operator's first tensor, as `4x64x128x128`."""
    first = next((dims for dims in args.get("Input Dims", []) if dims), [])
    return "x".join(map(str, first)) if all(isinstance(side, int) for side in first) else ""
