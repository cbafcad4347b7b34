"""How much of a training step is computing: the same steps with the loader on, and on one batch that lies ready.

The recipe is small on purpose, with steps of some tens of milliseconds: that is where a loader can be in the way. Per
kind of data and number of workers, a round times so many steps of each of

    fixed    one batch over and over: no loader, no augmentation
    fed      a new batch each step
    changed  a new batch each step, augmented

in turns, and share = fixed / fed is what the loader leaves to computing. Data are `cold` (nothing decoded, nothing
kept: every image is read from its file), `mapped` (prepared before, read from the cache on disk each time) or `kept`
(in memory).

    python benchmarks/loader_share.py [--rounds 8] [--steps 12] [--workers 0 1 2] [--set KEY=VALUE]... [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from datetime import date
from pathlib import Path

import nibabel as nib
import numpy as np
import PIL.Image

from gantk.machine.runtime import describe, start
from gantk.method import Batch
from gantk.recipe.load import load_recipe
from gantk.training.assemble import assemble
from gantk.training.loop import Training

SMALL = (
    'method.generator={name="unet", width=8, depth=4}',
    'method.discriminator={name="patchgan", receptive_field=34, width=8}',
    "data.size=[96, 96]",
    'data.augment=["hflip", {name="affine", p=0.8}]',
    "train.batch=1",
)
NOTHING = "data.memory=1e-9"
STATES = {"cold": (NOTHING, "data.cache=false"), "mapped": (NOTHING,), "kept": ()}
SIDES = ("fixed", "fed", "changed")
AHEAD = 6  # steps that are not timed: their batches were read while the other side had its turn


def made_png(folder: Path) -> list[str]:
    """60 PNGs of 256 x 256 in each of two domains."""
    rng = np.random.default_rng(0)
    for name in ("trainA", "trainB"):
        (folder / name).mkdir(parents=True)
        for number in range(60):
            rough = PIL.Image.fromarray(rng.integers(0, 255, (32, 32), dtype=np.uint8)).resize((256, 256))
            noisy = np.clip(np.asarray(rough) + rng.normal(0, 4, (256, 256)), 0, 255).astype(np.uint8)
            PIL.Image.fromarray(noisy).save(folder / name / f"{number:03d}.png")
    return [f'data.source={{name="folders", path="{folder}"}}']


def made_nifti(folder: Path) -> list[str]:
    """3 volumes of 96 x 112 x 96 voxels, .nii.gz, in each of two domains."""
    rng = np.random.default_rng(0)
    for name in ("trainA", "trainB"):
        (folder / name).mkdir(parents=True)
        for number in range(3):
            rough = np.kron(rng.uniform(200, 900, (12, 14, 12)), np.ones((8, 8, 8)))
            volume = np.abs(rough + rng.normal(0, 12, rough.shape)).astype(np.int16)
            nib.save(nib.Nifti1Image(volume, np.eye(4)), folder / name / f"patient{number}.nii.gz")
    return [f'data.source={{name="folders", path="{folder}"}}', 'data.split.by="block"']


KINDS = {"png": made_png, "nifti": made_nifti}


class Way:
    """One training, taken a few steps at a time."""

    def __init__(self, settings: list[str]):
        model = load_recipe("cyclegan_t1t2").override([*SMALL, *settings]).check()
        self.parts = assemble(model, start(None, model.train.precision, model.train.fast.channels_last))
        self.training = Training(self.parts, run=None)
        self.stage = self.parts.method.stages(1)[0]
        self.fixed = self.training.feed.at(0)

    def seconds(self, side: str, steps: int) -> float:
        """Seconds of one step, in the mean over `steps`."""
        self._run(side, AHEAD)
        began = time.perf_counter()
        self._run(side, steps)
        return (time.perf_counter() - began) / steps

    def _run(self, side: str, steps: int) -> None:
        engine, runtime = self.parts.engine, self.parts.runtime
        for _ in range(steps):
            runtime.seed(0, engine.step)
            if side == "fixed":
                batch = Batch(self.fixed)
            elif side == "fed":
                batch = self.training.feed.at(engine.step)
            else:
                batch = self.training.batch_at(engine.step, self.stage)
            engine.train_step(batch)
            engine.step += 1
        runtime.synchronize()


def measured(settings: list[str], rounds: int, steps: int, warm: bool) -> dict:
    """All samples of one way, sides in turns, the order reversed every other round."""
    way = Way(settings)
    if warm:
        for images in way.parts.batches.sets.values():
            for index in range(len(images)):
                images.prepared(index)
    for side in SIDES:
        way.seconds(side, 2)
    samples: dict[str, list[float]] = {side: [] for side in SIDES}
    for turn in range(rounds):
        for side in SIDES if turn % 2 == 0 else reversed(SIDES):
            samples[side].append(way.seconds(side, steps))
    way.training.feed.close()
    fixed, fed, changed = (np.array(samples[side]) for side in SIDES)
    return {"seconds_per_step": samples, "share": spread(fixed / fed), "augmentation": spread((changed - fed) / fixed)}


def spread(values: np.ndarray) -> dict[str, float]:
    """Median, and the interval that holds 95 % of the samples."""
    low, middle, high = np.percentile(values, [2.5, 50, 97.5])
    return {"median": middle, "from": low, "to": high}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--steps", type=int, default=12, help="timed steps per round and side")
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--kinds", nargs="+", choices=list(KINDS), default=list(KINDS))
    parser.add_argument("--states", nargs="+", choices=list(STATES), default=list(STATES))
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--json", metavar="FILE")
    options = parser.parse_args()

    record = {"date": date.today().isoformat(), "machine": describe(start()), "set": [*SMALL, *options.set]}
    record["results"] = []
    with tempfile.TemporaryDirectory() as place:
        os.environ["GANTK_CACHE"] = str(Path(place) / "cache")
        for kind in options.kinds:
            source = KINDS[kind](Path(place) / kind)
            for state in options.states:
                for workers in options.workers:
                    settings = [*source, *STATES[state], f"data.workers={workers}", *options.set]
                    found = measured(settings, options.rounds, options.steps, warm=state != "cold")
                    record["results"].append({"data": kind, "state": state, "workers": workers} | found)
                    share, changes = found["share"], found["augmentation"]
                    step = np.median(found["seconds_per_step"]["fixed"])
                    print(f"{kind:<6} {state:<7} {workers} workers  step {1e3 * step:5.1f} ms  computing "
                          f"{share['median']:6.1%} [{share['from']:.1%}, {share['to']:.1%}]  "
                          f"augmentation {changes['median']:+.1%} [{changes['from']:+.1%}, {changes['to']:+.1%}]",
                          flush=True)  # fmt: skip
    if options.json:
        Path(options.json).write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
