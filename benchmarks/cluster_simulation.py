"""Simulates which shared resource saturates first at 1,000 trials, 1,000,000 files and 512 GPUs.

    python benchmarks/cluster_simulation.py [--json FILE]

Workers queue, first come, first served, for shared resources: a file system of 10 GB/s and 10,000
new files a second (assumed), and one process that receives reports or assigns files (10th
percentiles measured by cluster_costs.py). Durations of work vary by 10 % (assumed, normal).
`efficiency`: time without shared resources over simulated time.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from heapq import heapify, heappop, heappush
from pathlib import Path

import numpy as np
from harness import finish, parser

# bytes and new files per second of the shared file system, for all nodes together
BYTES, NAMES = 10e9, 10e3
SIZES = {"dualgan_t1t2": 19.3e6, "cyclegan_ct_mr": 254e6}  # bytes of a checkpoint
# checkpoints of a trial; standard deviation of a work duration over its mean
SAVES, SPREAD = 10, 0.1
NAMES_OF_A_SAVE = 10  # four files and their folder, written by the run and again by Tune
# seconds to reduce a step's gradients (scaling.md)
MESSAGES = {"dualgan_t1t2": 1.37e-3, "cyclegan_ct_mr": 2.23e-3}


@dataclass
class Shared:
    """A resource that serves one request at a time: the time at which it is free, and its total
    busy seconds.
    """

    free: float = 0.0
    worked: float = 0.0

    def serve(self, time: float, seconds: float) -> float:
        """Time at which a request made at `time` is finished."""
        self.free, self.worked = max(self.free, time) + seconds, self.worked + seconds
        return self.free


def simulated(workers: list[Iterator[tuple[Shared | None, float]]]) -> float:
    """Seconds until all workers are done; each yields pairs (shared resource or None, seconds of
    it).
    """
    events, now = [(0.0, number) for number in range(len(workers))], 0.0
    heapify(events)
    while events:
        now, number = heappop(events)
        if request := next(workers[number], None):
            shared, seconds = request
            heappush(events, (shared.serve(now, seconds) if shared else now + seconds, number))
    return now


def times(mean: float, rng: np.random.Generator) -> Iterator[float]:
    """Endless random durations of work with this mean."""
    while True:
        yield from np.maximum(rng.normal(1.0, SPREAD, 1000), 0.1) * mean


def row(name: str, seconds: float, ideal: float, shared: dict[str, Shared]) -> list:
    """A row of the table, with the share of time for which each resource was busy."""
    busy = ", ".join(f"{each} {100 * one.worked / seconds:.0f}%" for each, one in shared.items())
    return [name, f"{seconds:.0f}", f"{100 * ideal / seconds:.0f}%", busy]


def trials(recipe: str, every: float, cost: dict[str, float]) -> list:
    """1,000 trials on 512 workers; each saves and reports ten checkpoints of `recipe`, one every
    `every` seconds.
    """
    shared = {name: Shared() for name in ("bytes", "names", "reports")}
    waiting, rng = iter(range(1000)), np.random.default_rng(0)
    work, own = (
        times(every, rng),
        cost[f"{recipe}: a save"] + cost[f"{recipe}: a report with its save"],
    )

    def worker() -> Iterator[tuple[Shared | None, float]]:
        for _ in waiting:
            for _ in range(SAVES):
                yield None, next(work) + own
                yield shared["bytes"], 2 * SIZES[recipe] / BYTES
                yield shared["names"], NAMES_OF_A_SAVE / NAMES
                yield shared["reports"], cost["Tune: a report"]

    seconds = simulated([worker() for _ in range(512)])
    name, rounds = f"1,000 trials of `{recipe}`, a save every {every:g} s", 2  # of 512
    return row(name, seconds, rounds * SAVES * (every + own), shared)


def files(workers: int, each: float, cost: dict[str, float], count: int = 1_000_000) -> list:
    """`count` files of 0.2 MB on `workers` workers that each take `each` seconds for a file."""
    shared, waiting = (
        {name: Shared() for name in ("hands out", "names", "bytes")},
        iter(range(count)),
    )
    work, own = times(each, np.random.default_rng(0)), cost["a result of 0.2 MB, on the disk"]

    def worker() -> Iterator[tuple[Shared | None, float]]:
        for _ in waiting:
            yield (
                shared["hands out"],
                cost["Ray: a call of an actor"] + cost["a line of the ledger"],
            )
            yield None, next(work) + own
            yield shared["names"], 2 / NAMES
            yield shared["bytes"], 0.2e6 / BYTES

    seconds = simulated([worker() for _ in range(workers)])
    return row(
        f"{count:,} files, {workers} workers of {each:g} s",
        seconds,
        count * (each + own) / workers,
        shared,
    )


def training(
    recipe: str, spread: float, cost: dict[str, float], steps: int = 4000, step: float = 0.03
) -> list:
    """One training on 512 GPUs: all ranks wait for the slowest in each step, for gradients and for
    rank 0's saves.
    """
    rng, saves = np.random.default_rng(0), steps / 400 * cost[f"{recipe}: a save"]
    slowest = sum(rng.normal(1.0, spread, 512).max() for _ in range(steps)) * step - steps * step
    lost = {"slowest rank": slowest, "gradients": steps * MESSAGES[recipe], "saves": saves}
    seconds = steps * step + sum(lost.values())
    name = f"512 GPUs, `{recipe}`, steps of 30 ms that differ by {100 * spread:g} %"
    return row(
        name, seconds, steps * step, {each: Shared(worked=value) for each, value in lost.items()}
    )


if __name__ == "__main__":
    options = parser(__doc__).parse_args()
    found = json.loads(
        (Path(__file__).parent / "results" / "cluster-costs.json").read_text("utf-8")
    )["seconds"]
    cost = {name: float(np.percentile(samples, 10)) for name, samples in found.items()}
    rows = [trials(recipe, every, cost) for recipe in SIZES for every in (1, 3, 12, 60)]
    rows += [
        files(workers, each, cost)
        for workers, each in ((16, 0.02), (64, 0.02), (512, 1.0), (2048, 1.0))
    ]
    rows += [training(recipe, spread, cost) for recipe in SIZES for spread in (0.01, 0.05)]
    finish(
        options.json,
        ["what", "seconds", "efficiency", "share of the time that each is at work"],
        rows,
    )
