"""What it costs to have features through gantk: images to Inception's numbers, beside the bare network, taking turns.

Images is the whole way: (N, C, H, W) as a score is given them, scaled, made gray pictures of three channels, resized,
passed through the network, and brought back as float64. Bare is pytorch-fid's network alone, fed with pictures
(batch, 3, 299, 299) that lie ready, in each memory format; the faster one is what gantk is held against. The weights
are drawn at random: how long a product takes does not depend on its numbers.

    python benchmarks/feature_cost.py [--rounds 9] [--images 8] [--size 128] [--batch 8] [--json FILE]
"""

from __future__ import annotations

import argparse
import copy
import json
import shlex
import sys
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path

import numpy as np
import torch
from torch import nn

from gantk.machine.runtime import Runtime, describe, start
from gantk.metrics import features

LAYOUTS = {"bare": torch.contiguous_format, "bare, channels-last": torch.channels_last}


def random_inception() -> nn.Module:
    """pytorch-fid's network up to its last pooling, without the file of weights that it asks for."""
    from pytorch_fid import inception

    fetch, load = inception.load_state_dict_from_url, nn.Module.load_state_dict
    inception.load_state_dict_from_url, nn.Module.load_state_dict = lambda *_, **__: {}, lambda self, state: None
    try:
        torch.manual_seed(0)
        return inception.InceptionV3([inception.InceptionV3.BLOCK_INDEX_BY_DIM[2048]]).eval()
    finally:
        inception.load_state_dict_from_url, nn.Module.load_state_dict = fetch, load


def through_gantk(network: nn.Module) -> features.Features:
    """gantk's features with that network in the place of the one that its file would make."""
    known, features.inception_network = features.inception_network, lambda: copy.deepcopy(network)
    try:
        return features.Features("inception", 2.0, 2)
    finally:
        features.inception_network = known


def alone(network: nn.Module, layout: torch.memory_format, batches: int, batch: int, device: torch.device) -> Callable:
    """A call that passes pictures of the network's own size through it."""
    network = copy.deepcopy(network).to(device, memory_format=layout)
    network.resize_input = False
    ready = torch.rand(batch, 3, 299, 299, device=device).contiguous(memory_format=layout)

    def call() -> None:
        with torch.no_grad():
            for _ in range(batches):
                network(ready)

    return call


def measure(paths: dict[str, Callable], rounds: int, runtime: Runtime) -> dict[str, dict[str, list[float]]]:
    """Seconds per call, by the clock and of the process: warm up, then every way in turn, every other round reversed.

    On a machine that has other work the clock measures that work too; one thread's own seconds do not.
    """
    found: dict[str, dict[str, list[float]]] = {name: {"clock": [], "process": []} for name in paths}
    for call in paths.values():
        call()
    for turn in range(rounds):
        for name in list(paths) if turn % 2 == 0 else list(reversed(paths)):
            runtime.synchronize()
            began = time.perf_counter(), time.process_time()
            paths[name]()
            runtime.synchronize()
            found[name]["clock"].append(time.perf_counter() - began[0])
            found[name]["process"].append(time.process_time() - began[1])
    return found


def share(found: dict[str, dict[str, list[float]]], clock: str) -> dict[str, float]:
    """gantk's throughput over that of the faster bare network, round by round: median, lowest, highest."""
    fastest = min(LAYOUTS, key=lambda name: float(np.median(found[name][clock])))
    ratios = np.array(found[fastest][clock]) / np.array(found["images"][clock])
    return {"median": float(np.median(ratios)), "from": float(ratios.min()), "to": float(ratios.max())}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--images", type=int, default=8, help="per call; whole batches of them")
    parser.add_argument("--size", type=int, default=128, help="pixels a side of the images")
    parser.add_argument("--channels", type=int, default=1, choices=(1, 3))
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--device")
    parser.add_argument("--json", metavar="FILE")
    options = parser.parse_args()

    runtime = start(options.device, "fp32")
    features.PASS = options.batch
    batches = max(1, options.images // options.batch)
    shape = (batches * options.batch, options.channels, options.size, options.size)
    images = 2 * torch.rand(shape, generator=torch.Generator().manual_seed(0)).to(runtime.device)
    network = random_inception()
    seen = through_gantk(network)
    paths = {"images": lambda: seen(images)} | {
        name: alone(network, layout, batches, options.batch, runtime.device) for name, layout in LAYOUTS.items()
    }
    found = measure(paths, options.rounds, runtime)
    record = {
        "date": date.today().isoformat(),
        "command": shlex.join(["python", "benchmarks/feature_cost.py", *sys.argv[1:]]),
        "machine": describe(runtime),
        "images": list(shape),
        "batch": options.batch,
        "seconds": found,
        "images_per_s": {name: shape[0] / float(np.median(each["clock"])) for name, each in found.items()},
        "share_of_the_bare_throughput": {clock: share(found, clock) for clock in ("clock", "process")},
    }
    for name, each in record["images_per_s"].items():
        print(f"{name:<24} {each:.2f} images/s")
    for clock, each in record["share_of_the_bare_throughput"].items():
        print(f"share, {clock:<17} {each['median']:.3f} [{each['from']:.3f}, {each['to']:.3f}]")
    if options.json:
        Path(options.json).write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
