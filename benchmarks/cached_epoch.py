"""How much the cache is worth: an epoch over axial slices of .nii.gz volumes, the first one and those after it.

Nothing is kept in memory (data.memory too small for any image), so that every epoch asks the disk for every slice. Each
round starts from an empty cache and nothing decoded, and times, per epoch:

    uncached   without a cache, everything to be decoded
    first      with an empty cache: decoded, brought to size, stored
    second     the next epoch of the same run
    next run   the first epoch of another run on the same cache

    python benchmarks/cached_epoch.py [--data FOLDER]... [--made 6] [--rounds 5] [--workers 0 2] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
import time
from collections.abc import Iterator
from datetime import date
from pathlib import Path

import nibabel as nib
import numpy as np

from gantk.data.batches import Batches, ImageSet
from gantk.data.cache import Cache
from gantk.data.intensity import Percentile
from gantk.data.preparation import Preparation
from gantk.data.sources.folders import Images
from gantk.machine.runtime import describe, start

EPOCHS = ("uncached", "first", "second", "next run")
NOTHING = 1e-9  # GiB of images to keep in memory
BATCH = 4


def made_volumes(folder: Path, count: int) -> None:
    """Volumes of 160 x 192 x 160 voxels: a head of rough tissue in noise, int16, compressed as nibabel does."""
    grid = np.ogrid[-1:1:160j, -1:1:192j, -1:1:160j]
    for number in range(count):
        rng = np.random.default_rng(number)
        inside = sum(axis**2 for axis in grid) < 0.6 + 0.1 * rng.random()
        tissue = np.repeat(np.repeat(np.repeat(rng.uniform(200, 900, (20, 24, 20)), 8, 0), 8, 1), 8, 2)
        noise = rng.normal(0, 12, inside.shape)
        volume = np.abs(np.where(inside, tissue, 0) + noise).astype(np.int16)
        nib.save(nib.Nifti1Image(volume, np.diag([1.0, 1.0, 1.0, 1.0])), folder / f"patient{number:02d}.nii.gz")


def slices(folder: Path, size: tuple[int, ...], cache: Cache | None) -> ImageSet:
    """The axial slices of every volume in a folder, as a new run would find them."""
    records = Images(("MR",), 2, size, path=str(folder)).records()
    intensity = Percentile()
    intensity.low, intensity.high = 0.0, 1000.0
    preparation = Preparation(records, size, "pad", cache=cache)
    return ImageSet(records, intensity, size, "pad", NOTHING, preparation=preparation)


def seconds(batches: Batches, epoch: int) -> float:
    """One epoch, every batch taken."""
    began = time.perf_counter()
    for step in range(epoch * batches.steps_per_epoch, (epoch + 1) * batches.steps_per_epoch):
        batches.at(step)
    return time.perf_counter() - began


def one_round(folder: Path, size: tuple[int, ...], workers: int) -> Iterator[tuple[str, float]]:
    """The seconds of each kind of epoch."""
    with tempfile.TemporaryDirectory() as place:
        for name, epochs in (("uncached", 1), ("first", 2), ("next run", 1)):
            cache = None if name == "uncached" else Cache(Path(place), 20 * 2**30)
            images = slices(folder, size, cache)
            batches = Batches({"image": images}, BATCH, 0, False, workers=workers)
            for epoch in range(epochs):
                batches.end = (epoch + 1) * batches.steps_per_epoch  # the next epoch is not begun in this one's time
                yield (name, "second")[epoch], seconds(batches, epoch)
            batches.close()


def measured(folder: Path, size: tuple[int, ...], workers: int, rounds: int) -> dict:
    """All samples of one set of volumes, and the ratios of the epochs of one round."""
    samples: dict[str, list[float]] = {name: [] for name in EPOCHS}
    for _ in range(rounds):
        for name, value in one_round(folder, size, workers):
            samples[name].append(value)
    ratios = {
        f"{slow} / {fast}": (np.array(samples[slow]) / np.array(samples[fast])).tolist()
        for slow in EPOCHS[:2]
        for fast in EPOCHS[2:]
    }
    files = [nib.load(file) for file in sorted(folder.iterdir())]
    return {
        "workers": workers,
        "volumes": [list(file.shape) for file in files],
        "mebibytes": round(sum(file.stat().st_size for file in folder.iterdir()) / 2**20, 1),
        "slices": len(slices(folder, size, None)),
        "seconds_per_epoch": samples,
        "ratio": ratios,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", action="append", default=[], metavar="FOLDER", help="its .nii.gz of three axes")
    parser.add_argument("--made", type=int, default=6, help="volumes that are made for it; 0: none")
    parser.add_argument("--size", type=int, nargs=2, default=(96, 96))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 2], help="threads that read ahead")
    parser.add_argument("--json", metavar="FILE")
    options = parser.parse_args()

    record = {
        "date": date.today().isoformat(),
        "machine": describe(start("cpu", "fp32")),
        "size": list(options.size),
        "batch": BATCH,
        "results": {},
    }
    with tempfile.TemporaryDirectory() as place:
        sets = {}
        for data in map(Path, options.data):
            sets[data.resolve().name] = copied(data, Path(place) / data.resolve().name)
        if options.made:
            sets["made"] = Path(place) / "made"
            sets["made"].mkdir()
            made_volumes(sets["made"], options.made)
        for name, folder in sets.items():
            for workers in options.workers:
                result = measured(folder, tuple(options.size), workers, options.rounds)
                record["results"].setdefault(name, []).append(result)
                spent = "  ".join(f"{kind} {np.median(s):.3f} s" for kind, s in result["seconds_per_epoch"].items())
                ratio = result["ratio"]["first / second"]
                print(f"{name:<10} {workers} workers  {result['slices']} slices  {spent}")
                print(f"{'':<10} first / second {np.median(ratio):.1f} (lowest {min(ratio):.1f})")
    if options.json:
        Path(options.json).write_text(json.dumps(record, indent=1) + "\n")


def copied(data: Path, folder: Path) -> Path:
    """A folder with copies of the volumes of decimal numbers below `data`: lesion masks and raw scans are left out."""
    folder.mkdir()
    files = [file for file in sorted(data.rglob("*.nii.gz")) if nib.load(file).get_data_dtype().kind == "f"]
    for number, file in enumerate(files):
        shutil.copyfile(file, folder / f"patient{number:02d}.nii.gz")
    return folder


if __name__ == "__main__":
    main()
