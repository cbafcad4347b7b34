"""What a second rank is worth on one machine: two gloo ranks of one thread take turns between three ways of a step.

    alone      one rank, while the other waits
    apart      both, without a word to each other: what the machine itself allows
    together   both, gradients averaged as a training of two ranks does

    python benchmarks/scaling.py [RECIPE] [--set KEY=VALUE]... [--rounds 10] [--steps 2] [--json FILE]

Also counted: what a rank of each registered method hands over in a step, four bytes for every weight that it updates.
"""

from __future__ import annotations

import os
import socket
import sys
import time
from dataclasses import replace

os.environ["OMP_NUM_THREADS"] = "1"  # read by torch when it is imported

import torch  # noqa: E402
import torch.distributed as dist  # noqa: E402
import torch.multiprocessing as processes  # noqa: E402
from harness import in_turns, parser, ratio, record, table, write, written  # noqa: E402
from recipe_step import RecipeStep  # noqa: E402

from gantk.errors import UserError  # noqa: E402
from gantk.machine.runtime import Runtime, start  # noqa: E402
from gantk.method import Geometry, check_networks  # noqa: E402
from gantk.plugin.loader import registry  # noqa: E402
from gantk.plugin.spec import bind_or_raise  # noqa: E402

WAYS = ("alone", "apart", "together")
SIZES = ((256, 256), (64, 64))  # at which methods are built to be counted; the second where the first is refused


def measured(recipe: str, settings: list[str], rounds: int, steps: int) -> dict:
    """The samples of all ways, and how many bytes a rank hands over in a step."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    queue = processes.get_context("spawn").SimpleQueue()
    processes.spawn(_rank, (port, recipe, settings, rounds, steps, queue), nprocs=2)
    return queue.get()


def _rank(rank: int, port: int, recipe: str, settings: list[str], rounds: int, steps: int, queue) -> None:
    torch.set_num_threads(1)
    place = {"WORLD_SIZE": 2, "RANK": rank, "LOCAL_RANK": rank, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    os.environ |= {name: str(value) for name, value in place.items()}
    ranks = start("cpu")
    alone = replace(ranks, world=1, rank=0, ranks=None)
    step = {way: RecipeStep.build(recipe, settings, ranks=ranks if way == "together" else alone) for way in WAYS}

    def timed(way: str) -> float:
        """Seconds per step: from when both ranks are ready until both are done."""
        ranks.wait()
        began = time.perf_counter()
        for _ in range(0 if way == "alone" and rank else steps):
            step[way]()
        ranks.wait()
        return (time.perf_counter() - began) / steps

    samples = in_turns({way: lambda way=way: timed(way) for way in WAYS}, rounds, warm=1)
    if rank == 0:
        sent = sum(reduction.bytes for reduction in step["together"].engine.reductions.values())
        queue.put({"seconds_per_step": samples, "bytes": sent})
    dist.barrier()


def bytes_per_step() -> dict[str, dict]:
    """What each registered method sends in a step by its own defaults, by phase."""
    found = {}
    for name in registry().names("method"):
        for size in SIZES:
            try:
                part = bind_or_raise("method", {"name": name})
                with torch.device("meta"):
                    method = part(Geometry(2, size, dict.fromkeys(part.target.reads, 1)))
                check_networks(method)
            except UserError:
                continue
            phases = {
                phase.name: sum(p.nbytes for p in {*(q for m in phase.updates for q in m.parameters())}) / phase.every
                for phase in method.phases()
            }
            found[name] = {"size": list(size), "phases": phases}
            break
    return found


def main(arguments: list[str] | None = None) -> None:
    options = parser(__doc__, rounds=10)
    options.add_argument("recipe", nargs="?", default="dualgan_t1t2")
    options.add_argument("--steps", type=int, default=2, help="steps per round and way")
    options = options.parse_args(arguments)
    found = measured(options.recipe, options.set, options.rounds, options.steps)
    seconds = found["seconds_per_step"]
    gain = {way: ratio([2 * each for each in seconds["alone"]], seconds[way]) for way in WAYS[1:]}
    sent = bytes_per_step()
    runtime: Runtime = start("cpu")
    write(
        options.json, record(runtime, recipe=options.recipe, set=options.set, gain=gain, bytes_per_step=sent, **found)
    )
    rows = [(way, f"{sum(values) / len(values):.4f}", written(gain.get(way))) for way, values in seconds.items()]
    print(table(["two ranks of one thread", "s/step", "images/s over those of one rank"], rows))
    print(f"a rank hands over {found['bytes'] / 1e6:.1f} MB in a step\n")
    rows = [(name, f"{sum(each['phases'].values()) / 1e6:.1f}") for name, each in sent.items()]
    print(table(["method by its defaults", "MB in a step"], rows))


if __name__ == "__main__":
    sys.exit(main())
