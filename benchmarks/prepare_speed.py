"""Times what `gantk.prepare` does around a network, with a network that changes nothing.

    python benchmarks/prepare_speed.py [--rounds 7]

CPU seconds of the fastest round, in one thread. To compare two versions, put each first on
PYTHONPATH in turn.
"""

import argparse
import time

import numpy as np
import torch

from gantk.data.intensity import Percentile
from gantk.inference.frame import Frame
from gantk.inference.pipeline import Pipeline

CASES = {  # name -> (native shape (N, C, *spatial), the network's size)
    "a volume of 181 x 217 x 181 at 96 x 96 x 96": ((1, 1, 181, 217, 181), (96, 96, 96)),
    "40 slices of 512 x 400 at 256 x 256": ((40, 1, 512, 400), (256, 256)),
}


def seconds_of(shape: tuple[int, ...], size: tuple[int, ...], rounds: int) -> float:
    """CPU seconds from native images to native results, of the fastest round."""
    mapping = Percentile()
    mapping.fitted = [0.0, 300.0, 0.05, 0.0]
    frame = Frame("T1", "T2", len(size), size, 1, (-1.0, 1.0))
    pipeline = Pipeline(frame, mapping, mapping, lambda seen: seen)
    images = np.random.default_rng(0).uniform(0, 300, shape).astype(np.float32)
    rows = []
    for _ in range(rounds):
        start = time.process_time()
        pipeline.stack(images, pipeline.own_scale(images[0]))
        rows.append(time.process_time() - start)

    return min(rows)


if __name__ == "__main__":
    options = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    options.add_argument("--rounds", type=int, default=7)
    rounds = options.parse_args().rounds
    torch.set_num_threads(1)
    for name, (shape, size) in CASES.items():
        print(f"{name}: {seconds_of(shape, size, rounds):.3f} s")
