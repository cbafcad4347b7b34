"""What several ranks are worth: measured on CPU ranks, counted per method, and modelled for 8 to 512 GPUs.

Two processes of one thread take turns between three ways of the same recipe's step, the order turned round every other
time: one rank alone while the other waits, both without a word to each other, both with one message after each backward
pass.

    python benchmarks/scaling.py [RECIPE] [--set KEY=VALUE]... [--rounds 10] [--steps 2] [--json FILE] [--page FILE]
    python benchmarks/scaling.py --page-only --json FILE --page FILE     # the page again, from the file

Writes benchmarks/results/scaling.json and scaling.md where nothing else is said.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import time
from dataclasses import replace
from datetime import date
from pathlib import Path

RESULTS = Path(__file__).parent / "results"
WAYS = ("alone", "apart", "together")
SIZES = ((256, 256), (64, 64))  # at which methods are built to be counted; the second where the first is refused


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", nargs="?", default="dualgan_t1t2")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--steps", type=int, default=2, help="steps per round and way")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--json", type=Path, default=RESULTS / "scaling.json")
    parser.add_argument("--page", type=Path, default=RESULTS / "scaling.md")
    parser.add_argument("--page-only", action="store_true")
    options = parser.parse_args()
    if not options.page_only:
        record = measured(options.recipe, options.set, options.rounds, options.steps)
        options.json.write_text(json.dumps(record, indent=1) + "\n")
    from scaling_page import page

    options.page.write_text(page(json.loads(options.json.read_text())))
    print(options.page.read_text())


def measured(recipe: str, settings: list[str], rounds: int, steps: int) -> dict:
    """The samples of all ways, the machine, and what each method sends in a step."""
    os.environ["OMP_NUM_THREADS"] = "1"  # read by torch when it is imported
    import torch.multiprocessing as processes

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    queue = processes.get_context("spawn").SimpleQueue()
    processes.spawn(_rank, (port, recipe, settings, rounds, steps, queue), nprocs=2)
    found = queue.get()
    return {
        "date": date.today().isoformat(),
        "command": " ".join(["python benchmarks/scaling.py", recipe, *(f"--set {setting}" for setting in settings)])
        + f" --rounds {rounds} --steps {steps}",
        "recipe": recipe,
        "set": settings,
        "steps_per_round": steps,
        **found,
        "bytes_per_step": bytes_per_step(),
    }


def _rank(rank: int, port: int, recipe: str, settings: list[str], rounds: int, steps: int, queue) -> None:
    import torch
    import torch.distributed as dist

    from gantk.machine.runtime import describe, start

    torch.set_num_threads(1)
    place = {"WORLD_SIZE": 2, "RANK": rank, "LOCAL_RANK": rank, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    os.environ |= {name: str(value) for name, value in place.items()}
    ranks = start("cpu")
    ways = {name: _Way(name, recipe, settings, ranks) for name in WAYS}
    for way in ways.values():
        way.run(2, ranks)
    for turn in range(rounds):
        for name in WAYS if turn % 2 == 0 else reversed(WAYS):
            ways[name].samples.append(ways[name].run(steps, ranks))
    if rank == 0:
        queue.put(
            {
                "machine": describe(ranks) | {"cores": len(os.sched_getaffinity(0)), "load": os.getloadavg()[0]},
                "batch": ways["together"].parts.batches.batch,
                "bytes": ways["together"].bytes,
                "seconds_per_step": {name: way.samples for name, way in ways.items()},
            }
        )
    dist.barrier()


class _Way:
    """One way of taking the recipe's steps."""

    def __init__(self, name: str, recipe: str, settings: list[str], ranks):
        from gantk.recipe.load import load_recipe
        from gantk.training.assemble import assemble
        from gantk.training.loop import Training

        model = load_recipe(recipe).override(settings).check()
        runtime = replace(ranks, precision=_precision(model, ranks), channels_last=model.train.fast.channels_last)
        alone = replace(runtime, world=1, rank=0, ranks=None)
        self.idle = name == "alone" and ranks.rank > 0
        self.parts = assemble(model, runtime if name == "together" else alone)
        self.training = Training(self.parts, run=None)
        self.stage = self.parts.method.stages(1)[-1]
        self.samples: list[float] = []

    def run(self, steps: int, ranks) -> float:
        """Seconds per step: from when both ranks are ready until both are done."""
        ranks.wait()
        began = time.perf_counter()
        for _ in range(0 if self.idle else steps):
            engine = self.parts.engine
            self.parts.runtime.seed(0, engine.step)
            engine.train_step(self.training.batch_at(engine.step, self.stage))
            engine.step += 1
        ranks.wait()
        return (time.perf_counter() - began) / steps

    @property
    def bytes(self) -> int:
        """What a rank hands over in a step."""
        return sum(reduction.bytes for reduction in self.parts.engine.reductions.values())


def _precision(model, ranks) -> str:
    return ranks.precision if model.train.precision == "auto" else model.train.precision


def bytes_per_step() -> dict[str, dict]:
    """What each registered method sends in a step by its own defaults: four bytes for every weight that it updates."""
    import torch

    from gantk.errors import UserError
    from gantk.method import Geometry, check_networks
    from gantk.plugin.loader import registry
    from gantk.plugin.spec import bind_or_raise

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
                phase.name: {
                    "bytes": sum(p.nbytes for p in {*(q for m in phase.updates for q in m.parameters())}),
                    "every": phase.every,
                }
                for phase in method.phases()
            }
            found[name] = {"size": list(size), "phases": phases}
            break
    return found


if __name__ == "__main__":
    main()
