"""What fills up first at 1,000 trials, 1,000,000 files and 512 GPUs: simulated, with the costs of cluster_costs.py.

    python benchmarks/cluster_simulation.py [--costs FILE] [--json FILE]

Workers take turns at what they share, first come, first served: a file system of 10 GB/s and 10,000 new names a second
(assumed) and the one process that takes reports or hands out files (measured: the tenth percentile of its calls). Work
itself differs by 10 % (assumed, normal). `efficiency` is the time with nothing shared over the simulated time.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from heapq import heapify, heappop, heappush
from pathlib import Path

import numpy as np
from harness import parser, record, table, write

from gantk.machine.runtime import start

BYTES, NAMES = 10e9, 10e3  # a second, of the file system of all nodes together
SIZES = {"dualgan_t1t2": 19.3e6, "cyclegan_ct_mr": 254e6}  # bytes of a save
SAVES, SPREAD = 10, 0.1  # saves of a trial; deviation of a piece of work, over its mean
NAMES_OF_A_SAVE = 10  # four files and their folder, by the run and by Tune
MESSAGES = {"dualgan_t1t2": 1.37e-3, "cyclegan_ct_mr": 2.23e-3}  # seconds of a step on 512 GPUs, modelled in scaling.md


@dataclass
class Shared:
    """What serves one at a time: until when it is taken, and for how long it worked in all."""

    free: float = 0.0
    worked: float = 0.0

    def serve(self, asked: float, seconds: float) -> float:
        """When what is asked for at a time is done."""
        self.free, self.worked = max(self.free, asked) + seconds, self.worked + seconds
        return self.free


def simulated(workers: list[Iterator[tuple[Shared | None, float]]]) -> float:
    """Seconds until all workers, each a series of (what is shared or None, seconds of it), are done."""
    events, now = [(0.0, number) for number in range(len(workers))], 0.0
    heapify(events)
    while events:
        now, number = heappop(events)
        if asked := next(workers[number], None):
            shared, seconds = asked
            heappush(events, (shared.serve(now, seconds) if shared else now + seconds, number))
    return now


def times(mean: float, rng: np.random.Generator) -> Iterator[float]:
    """Endless durations of a piece of work."""
    while True:
        yield from np.maximum(rng.normal(1.0, SPREAD, 1000), 0.1) * mean


def row(name: str, seconds: float, ideal: float, shared: dict[str, Shared]) -> list:
    """A line of the table: the share of time that each of `shared` worked."""
    busy = ", ".join(f"{each} {100 * one.worked / seconds:.0f}%" for each, one in shared.items())
    return [name, f"{seconds:.0f}", f"{100 * ideal / seconds:.0f}%", busy]


def trials(recipe: str, every: float, cost: dict[str, float]) -> list:
    """1,000 trials on 512 workers, each with a save of `recipe` after every so many seconds, ten times."""
    shared = {name: Shared() for name in ("bytes", "names", "reports")}
    waiting, rng = iter(range(1000)), np.random.default_rng(0)
    work, own = times(every, rng), cost[f"{recipe}: a save"] + cost[f"{recipe}: a report with its save"]

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
    """So many files of 0.2 MB on so many workers, each of which takes `each` seconds a file."""
    shared, waiting = {name: Shared() for name in ("hands out", "names", "bytes")}, iter(range(count))
    work, own = times(each, np.random.default_rng(0)), cost["a result of 0.2 MB, on the disk"]

    def worker() -> Iterator[tuple[Shared | None, float]]:
        for _ in waiting:
            yield shared["hands out"], cost["Ray: a call of an actor"] + cost["a line of the ledger"]
            yield None, next(work) + own
            yield shared["names"], 2 / NAMES
            yield shared["bytes"], 0.2e6 / BYTES

    seconds = simulated([worker() for _ in range(workers)])
    return row(f"{count:,} files, {workers} workers of {each:g} s", seconds, count * (each + own) / workers, shared)


def training(recipe: str, spread: float, cost: dict[str, float], steps: int = 4000, step: float = 0.03) -> list:
    """One training on 512 GPUs: all wait for the slowest of each step, for gradients, and for the save by one rank."""
    rng, saves = np.random.default_rng(0), steps / 400 * cost[f"{recipe}: a save"]
    slowest = sum(rng.normal(1.0, spread, 512).max() for _ in range(steps)) * step - steps * step
    lost = {"slowest rank": slowest, "gradients": steps * MESSAGES[recipe], "saves": saves}
    seconds = steps * step + sum(lost.values())
    name = f"512 GPUs, `{recipe}`, steps of 30 ms that differ by {100 * spread:g} %"
    return row(name, seconds, steps * step, {each: Shared(worked=value) for each, value in lost.items()})


def main() -> None:
    """Print a Markdown table, and write it."""
    options = parser(__doc__)
    options.add_argument("--costs", type=Path, default=Path(__file__).parent / "results" / "cluster-costs.json")
    asked = options.parse_args()
    found = json.loads(asked.costs.read_text("utf-8"))["seconds"]
    cost = {name: float(np.percentile(samples, 10)) for name, samples in found.items()}
    rows = [trials(recipe, every, cost) for recipe in SIZES for every in (1, 3, 12, 60)]
    rows += [files(workers, each, cost) for workers, each in ((16, 0.02), (64, 0.02), (512, 1.0), (2048, 1.0))]
    rows += [training(recipe, spread, cost) for recipe in SIZES for spread in (0.01, 0.05)]
    print(table(["what", "seconds", "efficiency", "share of the time that each is at work"], rows))
    write(asked.json, record(start("cpu"), rows=rows))


if __name__ == "__main__":
    main()
