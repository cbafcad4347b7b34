"""What each of gantk's own ways to compute a layer is worth: the layer with them and as torch has it, taking turns.

Forward and backward of single layers of the published networks under bf16 autocast (or fp32), and with --step whole
training steps of cases in benchmarks/peers/cases.py. Seconds are of the wall clock, the order is swapped every round.

    python benchmarks/kernels.py [--rounds 20] [--precision bf16|fp32] [--step CASE]... [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path

import numpy as np
import torch
from peers.cases import CASES
from peers.own import Own, checked
from torch import nn

from gantk.machine.device import keep_memory
from gantk.machine.runtime import describe, start
from gantk.nets.blocks import CONV_TRANSPOSE, InstanceNorm, ResizeConv, channels_last, conv
from gantk.nets.kernels import use_kernels

# name -> layer, channels, side of the map; a batch of three, as CycleGAN's second generator sees it at batch 1
LAYERS: dict[str, tuple[Callable[[], nn.Module], int, int]] = {
    "halving 512 channels, 8 px": (lambda: conv(2, 512, 512, 4, stride=2, padding=1), 512, 8),
    "halving 512 channels, 4 px": (lambda: conv(2, 512, 512, 4, stride=2, padding=1), 512, 4),
    "halving 512 channels, 2 px": (lambda: conv(2, 512, 512, 4, stride=2, padding=1), 512, 2),
    "halving 256 to 512 channels, 16 px": (lambda: conv(2, 256, 512, 4, stride=2, padding=1), 256, 16),
    "doubling 512 channels, 1 px": (lambda: CONV_TRANSPOSE[2](512, 512, 4, 2, 1), 512, 1),
    "doubling 1024 to 512 channels, 2 px": (lambda: CONV_TRANSPOSE[2](1024, 512, 4, 2, 1), 1024, 2),
    "doubling 1024 to 512 channels, 4 px": (lambda: CONV_TRANSPOSE[2](1024, 512, 4, 2, 1), 1024, 4),
    "doubling 1024 to 256 channels, 8 px": (lambda: CONV_TRANSPOSE[2](1024, 256, 4, 2, 1), 1024, 8),
    "doubling 512 to 128 channels, 16 px": (lambda: CONV_TRANSPOSE[2](512, 128, 4, 2, 1), 512, 16),
    "doubling to one channel, 64 px": (lambda: CONV_TRANSPOSE[2](128, 1, 4, 2, 1), 128, 64),
    "7x7 of one channel, 128 px": (lambda: conv(2, 1, 64, 7, mode="reflect"), 1, 128),
    "7x7 to one channel, 128 px": (lambda: conv(2, 64, 1, 7, mode="reflect"), 64, 128),
    "3x3 in a reflected frame, 32 px": (lambda: conv(2, 256, 256, 3, mode="reflect"), 256, 32),
    "repeated pixels and 3x3, 32 px": (lambda: ResizeConv(2, 256, 128), 256, 32),
    "instance norm, 256 channels, 32 px": (lambda: InstanceNorm(256), 256, 32),
}
BATCH = 3


class LayerPass:
    """Forward and backward of one layer."""

    def __init__(self, make: Callable[[], nn.Module], channels: int, side: int, precision: str):
        self.layer = make().to(memory_format=torch.channels_last)
        self.bf16 = precision == "bf16"
        x = torch.randn(BATCH, channels, side, side, dtype=torch.bfloat16 if self.bf16 else torch.float32)
        self.x = channels_last(x).detach().requires_grad_()
        self.gradient: torch.Tensor | None = None

    def __call__(self, kernels: bool) -> float:
        """Seconds of one pass."""
        use_kernels(self.layer, kernels)
        self.layer.zero_grad(set_to_none=True)
        self.x.grad = None
        began = time.perf_counter()
        with torch.autocast("cpu", torch.bfloat16, enabled=self.bf16):
            y = self.layer(self.x)
        self.gradient = torch.randn_like(y) if self.gradient is None else self.gradient
        y.backward(self.gradient)
        return time.perf_counter() - began


class Step:
    """One training step of a case."""

    def __init__(self, case: str, precision: str):
        self.own = Own(checked(CASES[case], [f'train.precision="{precision}"']), "cpu")
        self.batch = self.own.batch(0)

    def __call__(self, kernels: bool) -> float:
        """Seconds of one step."""
        use_kernels(self.own.parts.method, kernels)
        batch = {name: image.clone() for name, image in self.batch.items()}
        began = time.perf_counter()
        self.own.step(batch)
        return time.perf_counter() - began


def compared(work: Callable[[bool], float], rounds: int) -> dict:
    """Seconds with and without, every sample, and how many times faster it is with them: median and 95 % of rounds."""
    for kernels in (True, False):  # warm up
        work(kernels)
    found: dict[bool, list[float]] = {True: [], False: []}
    for turn in range(rounds):
        for kernels in (True, False) if turn % 2 else (False, True):
            found[kernels].append(work(kernels))
    low, middle, high = np.percentile(np.array(found[False]) / np.array(found[True]), [2.5, 50, 97.5])
    return {"kernels_s": found[True], "torch_s": found[False], "ratio": {"median": middle, "from": low, "to": high}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--precision", choices=("bf16", "fp32"), default="bf16")
    parser.add_argument("--step", action="append", default=[], choices=CASES, metavar="CASE", help="whole steps")
    parser.add_argument("--json", metavar="FILE")
    options = parser.parse_args()

    keep_memory(True)
    record = {
        "date": date.today().isoformat(),
        "machine": describe(start("cpu", options.precision)),
        "precision": options.precision,
        "times": {},
    }
    for name in options.step or LAYERS:
        work = Step(name, options.precision) if options.step else LayerPass(*LAYERS[name], options.precision)
        record["times"][name] = times = compared(work, options.rounds)
        ratio = times["ratio"]
        seconds = f"{np.median(times['torch_s']) * 1e3:8.2f} -> {np.median(times['kernels_s']) * 1e3:8.2f} ms"
        print(f"{name:<38} {seconds}   {ratio['median']:.2f}x [{ratio['from']:.2f}, {ratio['to']:.2f}]", flush=True)
    if options.json:
        Path(options.json).write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
