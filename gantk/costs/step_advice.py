"""The costs of traced steps in words: shares that add up, the dearest operators, and what would help."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from gantk.costs.step_costs import (
    APART,
    AVERAGE,
    CONVOLUTIONS,
    COPIES,
    FORWARD,
    LOGGING,
    NORMS,
    OPTIMIZER,
    OVERHEAD,
    PREPARE,
    RANKS,
    WAIT,
    Costs,
)  # fmt: skip

DEAREST = 5  # operators in words
LISTED = 40  # operators in the summary file
CALLED = {
    "conv1d": "convolution",
    "conv2d": "convolution",
    "conv3d": "convolution",
    "convolution": "convolution",
    "conv_transpose2d": "transposed convolution",
    "conv_transpose3d": "transposed convolution",
    "convolution_backward": "convolution",
    "Product": "convolution as a matrix product",
    "ProductBackward": "convolution as a matrix product",
    "TransposedProduct": "transposed convolution as a matrix product",
    "TransposedProductBackward": "transposed convolution as a matrix product",
    "OffsetBackward": "offset of a convolution",
    "to": "cast, or move to a device",
    "_to_copy": "cast, or move to a device",
    "contiguous": "copy into another memory layout",
    "clone": "copy",
    "copy_": "copy",
    "cat": "joining of tensors",
    "stack": "joining of tensors",
    "native_batch_norm_backward": "norm",
    "instance_norm": "instance norm",
}


@dataclass(frozen=True)
class Facts:
    """What a remedy depends on: the recipe's [train] table, the machine, and how the steps went without tracing."""

    table: Any
    workers: int  # data.workers
    device: str  # cpu, cuda
    precision: str  # in force
    world: int
    untraced: float  # seconds per step before tracing began
    notes: tuple[str, ...]  # what the engine does otherwise than it could
    threads: int
    cores: int  # that this process may use
    system: float  # share of its processor time that the system spent for it
    faults: float  # pages of memory first touched per step


def lines(costs: Costs, facts: Facts) -> Iterator[str]:
    """The summary for a terminal."""
    step = costs.seconds / costs.steps
    slower = f", {step / facts.untraced:.2f}x as long as untraced ones" if facts.untraced > 0 else ""
    yield f"profile  {costs.steps} steps of {step:.4g} s{slower}"
    yield f"profile  {categories_in_words(costs)}"
    if costs.busy is not None:
        yield f"profile  the GPU was at work for {costs.busy / max(costs.seconds, 1e-12):.0%} of the time"
    for number, row in enumerate(operators(costs)[:DEAREST], 1):
        yield f"profile  {number}. {row['share']:4.0%}  {operator_in_words(row)}"
    if costs.apart:
        yield f"profile  beside the steps, {APART} took {costs.apart:.3g} s"
    for remedy in remedies(costs, facts):
        yield f"remedy   {remedy}"


def summary(costs: Costs, facts: Facts) -> dict[str, Any]:
    """All of it as JSON: seconds are per step, shares of a step."""
    total, step = max(costs.seconds, 1e-12), costs.seconds / costs.steps
    parts = {
        name: {
            "share": seconds / total,
            "seconds": seconds / costs.steps,
            **{way: costs.directions[name, way] / costs.steps for way in (FORWARD, "backward")
               if (name, way) in costs.directions},
        }
        for name, seconds in sorted(costs.categories.items(), key=lambda item: -item[1])
    }  # fmt: skip
    return {
        "steps": costs.steps,
        "seconds_per_step": step,
        "untraced_seconds_per_step": facts.untraced,
        "categories": parts,
        "phases": {name: seconds / total for name, seconds in costs.phases.items()},
        "operators": operators(costs)[:LISTED],
        "apart_seconds": costs.apart,
        "gpu_busy": None if costs.busy is None else costs.busy / total,
        "system_time": facts.system,
        "page_faults_per_step": facts.faults,
        "remedies": remedies(costs, facts),
    }


def categories_in_words(costs: Costs) -> str:
    """`convolutions 61 % (backward 44, forward 17) · norms 9 % · ...`: whole per cents that add up to 100."""
    ranked = sorted(costs.categories.items(), key=lambda item: -item[1])
    shares = whole_shares([seconds for _, seconds in ranked])
    words, rest = [], 0
    for (name, seconds), share in zip(ranked, shares, strict=True):
        ways = [(way, costs.directions[name, way]) for way in ("backward", FORWARD) if (name, way) in costs.directions]
        if not share:
            continue
        if share < 2 and len(words) > 5 and name not in (WAIT, OVERHEAD):
            rest += share
            continue
        inside = whole_shares([*(s for _, s in ways), seconds - sum(s for _, s in ways)], share)
        split = ", ".join(f"{way} {part}" for (way, _), part in zip(ways, inside, strict=False))
        words.append(f"{name} {share} %" + (f" ({split})" if len(ways) > 1 and share >= 5 else ""))
    return " · ".join([*words, *([f"others {rest} %"] if rest else [])])


def whole_shares(parts: list[float], total: int = 100) -> list[int]:
    """Parts as whole shares that add up to `total`: those that were cut off most are rounded up."""
    whole = sum(parts)
    exact = [part / whole * total if whole > 0 else 0.0 for part in parts]
    found = [int(share + 1e-9) for share in exact]
    order = sorted(range(len(parts)), key=lambda k: found[k] - exact[k])
    for k in order[: total - sum(found) if whole > 0 else 0]:
        found[k] += 1
    return found


def operators(costs: Costs) -> list[dict[str, Any]]:
    """All operators, the dearest first, each with the place where it takes longest; their shares add up to 1."""
    rows = []
    for key, seconds in sorted(costs.operators.items(), key=lambda item: -item[1]):
        category, operator, direction, phase = key
        where, most = max(costs.places[key].items(), key=lambda item: item[1])
        share = seconds / max(costs.seconds, 1e-12)
        row = {"category": category, "operator": operator, "direction": direction, "phase": phase, "share": share}
        places = len(costs.places[key])
        rows.append(row | {"where": where, "where_share": most / max(seconds, 1e-12), "places": places})
    return rows


def operator_in_words(row: dict[str, Any]) -> str:
    """`convolution, backward · generators · most in g_ab.stem 4x64x128x128 (23 % of it)`."""
    name = row["operator"].removeprefix("aten::")
    what = CALLED.get(name, name) or row["category"]
    what += f", {row['direction']}" if row["direction"] else ""
    parts = [what, row["phase"]]
    if row["operator"] and row["where"]:
        share = f" ({row['where_share']:.0%} of it)" if row["places"] > 1 else ""
        parts.append(f"{'most ' if row['places'] > 1 else ''}in {row['where']}{share}")
    return " · ".join(part for part in parts if part)


def remedies(costs: Costs, facts: Facts) -> list[str]:
    """What would help here, the largest share first; at most two, and none that is in force already."""
    share = {name: seconds / max(costs.seconds, 1e-12) for name, seconds in costs.categories.items()}
    found = sorted(_possible(share, facts), key=lambda item: -item[0])
    return [words for _, words in found[:2]]


def _possible(share: dict[str, float], facts: Facts) -> Iterator[tuple[float, str]]:
    """(the share that it is about, remedy)."""
    table = facts.table

    def over(limit: float, *names: str) -> float:
        total = sum(share.get(name, 0.0) for name in names)
        return total if total > limit else 0.0

    if part := over(0.03, WAIT):
        more = f"raise data.workers from {facts.workers}" if facts.workers else "set data.workers = 2"
        yield part, f"{more}: {part:.0%} of a step waits for data. Raise data.memory where images are decoded again"
    if part := over(0.05, PREPARE):
        yield part, f"{part:.0%} of a step prepares batches: leave out some of data.augment, or do it with fewer pixels"
    if facts.device == "cuda" and (part := over(0.15, OVERHEAD)):
        if table.capture == "off":
            yield part, f'set train.capture = "auto": the GPU waits for the host for {part:.0%} of a step'
        elif facts.notes:
            yield part, f"the GPU waits for the host for {part:.0%} of a step, because {facts.notes[0]}"
        else:
            yield part, f"raise train.batch from {table.batch}: the GPU waits for the host for {part:.0%} of a step"
    if facts.device == "cpu" and (part := over(0.2, OVERHEAD)):
        more = "set train.batched = true" if not table.batched else f"raise train.batch from {table.batch}"
        yield part, f"{more}: {part:.0%} of a step is overhead, because each operator has little to do"
    if facts.device == "cpu" and table.allocator == "system" and facts.system > 0.1:
        yield facts.system, (
            f'set train.allocator = "keep": {facts.system:.0%} of the processor time went to the system, '
            f"{facts.faults:,.0f} pages of memory first touched per step"
        )
    if table.precision == "fp32" and facts.precision == "fp32" and (part := over(0.3, CONVOLUTIONS, "matrix products")):
        yield part, f'set train.precision = "auto": bf16 where the device is good at it, for the {part:.0%} of products'
    if not table.channels_last and (part := over(0.2, CONVOLUTIONS, NORMS, COPIES)):
        yield part, "set train.channels_last = true: convolutions take images in that layout without copies"
    if not table.kernels and (part := over(0.1, NORMS, "resampling and padding", COPIES)):
        yield part, f"set train.kernels = true: norms, resampling and copies are {part:.0%} of a step"
    if not table.fused and (part := over(0.05, OPTIMIZER, AVERAGE)):
        yield part, f"set train.fused = true: optimizers and averages are {part:.0%} of a step"
    if table.recompute and (part := over(0.3, CONVOLUTIONS)):
        yield part / 3, "set train.recompute = false where memory allows: the forward pass is computed twice"
    if facts.world > 1 and (part := over(0.1, RANKS)):
        more = "raise train.batch" if table.overlap else "set train.overlap = true"
        yield part, f"{more}: ranks talk for {part:.0%} of a step"
    if part := over(0.03, LOGGING):
        yield part, f"raise train.log_every from {table.log_every}: logging is {part:.0%} of a step"
    if facts.device == "cpu" and facts.threads < facts.cores and (part := over(0.3, CONVOLUTIONS, "matrix products")):
        yield part / 2, f"use all {facts.cores} cores: {facts.threads} of them computed (OMP_NUM_THREADS)"
