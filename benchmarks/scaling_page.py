"""scaling.md from scaling.json: what was measured on CPU ranks, what methods send, and a model of 8 to 512 GPUs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

GPUS = (8, 16, 32, 64, 128, 256, 512)
STEPS = (0.01, 0.03, 0.1)  # seconds that one GPU computes for a step


@dataclass(frozen=True)
class Cluster:
    """Machines of `per_node` GPUs. Bandwidths in bytes per second and direction of one GPU, latencies in seconds."""

    per_node: int = 8
    inside: float = 450e9  # NVLink 4: 900 GB/s both ways together
    between: float = 50e9  # one 400 Gb/s adapter for each GPU
    share: float = 0.8  # of these that messages reach
    hop_inside: float = 3e-6
    hop_between: float = 10e-6


def all_reduce(size: float, gpus: int, cluster: Cluster = Cluster()) -> float:
    """Seconds that `size` bytes take to be summed over all GPUs.

    Within a machine a ring: 2 (g - 1) / g * size / bandwidth. Over machines the same inside, and between them rings of
    the GPUs of one number, each with its g-th part: 2 (m - 1) / m * size / g / bandwidth. Every step of a ring adds a
    hop's latency.
    """
    inside = min(gpus, cluster.per_node)
    nodes = max(1, gpus // cluster.per_node)
    seconds = 2 * (inside - 1) / inside * size / (cluster.share * cluster.inside)
    seconds += 2 * (inside - 1) * cluster.hop_inside
    if nodes > 1:
        seconds += 2 * (nodes - 1) / nodes * size / inside / (cluster.share * cluster.between)
        seconds += 2 * (nodes - 1) * cluster.hop_between
    return seconds


def efficiency(step: float, size: float, gpus: int, cluster: Cluster = Cluster()) -> float:
    """Images per second of all GPUs over those of one times their number: messages follow the backward pass."""
    return step / (step + all_reduce(size, gpus, cluster))


def interval(values: np.ndarray) -> str:
    """Median and the range of 95 % of the samples."""
    low, middle, high = np.percentile(values, [2.5, 50, 97.5])
    return f"{middle:.2f} [{low:.2f}, {high:.2f}]"


def page(record: dict[str, Any]) -> str:
    """The page's text."""
    return "\n".join([*_measured(record), "", *_sent(record), "", *_modelled(record), ""])


def _measured(record: dict[str, Any]) -> list[str]:
    machine = record["machine"]
    seconds = {name: np.array(samples) for name, samples in record["seconds_per_step"].items()}
    gain = {name: interval(2 * seconds["alone"] / seconds[name]) for name in ("apart", "together")}
    share = interval(1 - seconds["apart"] / seconds["together"])
    settings = f" with {', '.join(record['set'])}" if record["set"] else ""
    return [
        "# Several ranks",
        "",
        "## Measured: two ranks of one thread on one machine",
        "",
        f"`{record['command']}`, {record['date']}: {machine['cpu']}, {machine['cores']} cores, torch "
        f"{machine['torch']}, {machine['precision']}, load {machine['load']:.1f} at the end. "
        f"Recipe `{record['recipe']}`{settings}, batch {record['batch']} a rank. "
        f"A rank hands over {record['bytes'] / 1e6:.1f} MB in a step.",
        "",
        f"Medians of {len(seconds['together'])} rounds of {record['steps_per_round']} steps, all ways in one pair of "
        "processes, the order turned round every other time; in brackets 95 % of the rounds.",
        "",
        "| way | seconds per step | images/s over those of one rank | share of the step spent on messages |",
        "|---|---|---|---|",
        f"| one rank, the other waits | {interval(seconds['alone'])} | 1 | 0 |",
        f"| two, without messages | {interval(seconds['apart'])} | {gain['apart']} | 0 |",
        f"| two, one message after each backward pass | {interval(seconds['together'])} | {gain['together']} "
        f"| {share} |",
        "",
        "The second row is what two processes can reach on this machine, whose cores share memory and caches.",
    ]


def _sent(record: dict[str, Any]) -> list[str]:
    rows = []
    for name, found in record["bytes_per_step"].items():
        phases = ", ".join(f"{phase} {each['bytes'] / 1e6:.1f}" for phase, each in found["phases"].items())
        rows.append(f"| {name} | {' x '.join(map(str, found['size']))} | {phases} | {_bytes(found) / 1e6:.1f} |")
    return [
        "## Counted: what a rank hands over in a step",
        "",
        "Gradients in float32, by each method's default networks, one channel. A ring sends twice that, less 1/n.",
        "",
        "| method | built for | MB by phase | MB in a step |",
        "|---|---|---|---|",
        *rows,
    ]


def _bytes(found: dict[str, Any]) -> float:
    return sum(each["bytes"] / each["every"] for each in found["phases"].values())


def _modelled(record: dict[str, Any]) -> list[str]:
    cluster = Cluster()
    sizes = {name: _bytes(found) for name, found in record["bytes_per_step"].items()}
    name = "cyclegan" if "cyclegan" in sizes else max(sizes, key=sizes.get)
    lines = [
        "## Modelled, not measured: 8 to 512 GPUs",
        "",
        f"Share of perfect scaling for the {sizes[name] / 1e6:.0f} MB of `{name}`, by how long one "
        "GPU computes for a step: batch divided by `images_per_s` of a run on one GPU.",
        "",
        "| GPUs | messages, ms | " + " | ".join(f"step of {1e3 * step:g} ms" for step in STEPS) + " |",
        "|---|---|" + "---|" * len(STEPS),
    ]
    for gpus in GPUS:
        cells = [f"{efficiency(step, sizes[name], gpus):.0%}" for step in STEPS]
        lines.append(f"| {gpus} | {1e3 * all_reduce(sizes[name], gpus):.2f} | {' | '.join(cells)} |")
    return [
        *lines,
        "",
        "With S bytes, g GPUs in a machine, m machines, B bandwidths of one GPU and direction, a a hop's latency:",
        "",
        "    T = 2 (g-1)/g S / B_in + 2 (g-1) a_in + 2 (m-1)/m S / (g B_out) + 2 (m-1) a_out",
        "    step / (step + T)",
        "",
        f"Assumed: g = {cluster.per_node}; B_in = {cluster.inside / 1e9:g} GB/s, half of the 900 GB/s both ways of "
        f"NVLink 4, and B_out = {cluster.between / 1e9:g} GB/s, one 400 Gb/s adapter for each GPU (NVIDIA's DGX H100 "
        f"data sheet), of both {cluster.share:.0%}; a_in = {1e6 * cluster.hop_inside:g} us and a_out = "
        f"{1e6 * cluster.hop_between:g} us are guesses of ours, on the high side. "
        "All ranks have steps of one length: data that come late, or "
        "machines that differ, are not in the model. Larger machines are worth their while at larger batches: what is "
        "divided is the number of steps, and a batch of 512 is another training than one of 8.",
    ]
