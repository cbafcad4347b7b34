"""Times training steps with one thread, all threads and gantk's own choice, while another process
keeps a core busy.

    python benchmarks/busy_machine.py [--rounds 5] [--seconds 3] [--set KEY=VALUE]... [--json FILE]

Samples in turns, each alone ("alone") and with a second process in an endless loop ("beside"). With
"chosen", gantk chooses its threads at the start of a sample and at a save in its middle. Rates are
multiples of the rate of one thread alone in the same round. `others`: cores used by other
processes; the rows "alone" are invalid unless it is about 0.
"""

import subprocess
import sys
import time
from contextlib import ExitStack
from functools import partial
from statistics import mean, median

import torch
from harness import RecipeStep, finish, in_turns, parser, ratio, written

from gantk.machine.cores import Threads, cpu_times, threads_beside

if __name__ == "__main__":
    options = parser(__doc__, set=[], rounds=5, seconds=3.0).parse_args()
    step, all_threads, rows = (
        RecipeStep.build("dualgan_t1t2", options.set, "cpu"),
        torch.get_num_threads(),
        [],
    )
    step.turn().settle()

    def sample(threads: int, place: str) -> tuple[float, int, float]:
        """(seconds per step, threads at the end of the sample, cores used by other processes)."""
        with ExitStack() as stack:
            if place == "beside":
                spin = stack.enter_context(
                    subprocess.Popen([sys.executable, "-c", "while True: pass"])
                )
                stack.callback(spin.kill)
                time.sleep(0.5)  # until its loop runs
            torch.set_num_threads(threads or all_threads)
            chooser, step_seconds, before = Threads(fixed=threads > 0), [], cpu_times()
            for save in (0, 1):
                chooser.choose(save)
                end = time.perf_counter() + options.seconds / 2
                while time.perf_counter() < end:
                    step_seconds.append(step.turn().take())
        return (
            mean(step_seconds),
            torch.get_num_threads(),
            round(threads_beside(before, cpu_times(), 1)[0], 2),
        )

    samplers = {
        (n, place): partial(sample, n, place)
        for n in (1, all_threads, 0)
        for place in ("alone", "beside")
    }
    found = in_turns(samplers, options.rounds, warm=1)
    for (threads, place), samples in found.items():
        seconds, taken, others = map(list, zip(*samples, strict=True))
        own = (
            written(ratio([each[0] for each in found[1, "alone"]], seconds)),
            f"{median(others):.2f}",
        )
        rows.append(
            [
                threads or "chosen",
                place,
                f"{step.model.train.batch / median(seconds):.1f}",
                *own,
                taken,
            ]
        )
    heads = ["threads", "", "images/s", "of one thread's", "others", "at the end"]
    finish(options.json, heads, rows, samples=[[*way, *found[way]] for way in found])
