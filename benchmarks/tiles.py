"""Whether tiles agree: one patient's T1 through networks whole, in tiles, and in windows on their own, in float32.

    python benchmarks/tiles.py VOLUME [--run RUN]... [--dims 2 3] [--json FILE]

The networks have weights drawn from a seed, with a gain at which their outputs vary; `--run` adds the generator of a
trained run. For every way of going through a network, beside the whole image:

    difference   the largest, as a part of the range of the whole image's output
    border       mean absolute gradient across the borders of tiles, over that of the whole image's output at the same
                 places: 1 where there is no seam
    seam         mean absolute gradient of the difference there, over the same: 0 where there is none

Ways are `tiles` (the image's statistics, small maps whole), `passes` (the image's statistics alone, where a tile's halo
covers all that the network sees), and `windows`, what was usual: each one with its own statistics, side by side or
blended.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

import gantk
from gantk.formats.files import read
from gantk.inference.tiles import Tiling
from gantk.inference.windows import by_windows, padded, tiles
from gantk.machine.runtime import describe, start
from gantk.nets.resnet import ResNet
from gantk.nets.unet import UNet

SLICES = (70, 85, 100)  # planes of the volume, counted from below


@dataclass(frozen=True)
class Case:
    """A network and the ways in which it is tried: name, window, level (None: windows on their own), overlap."""

    name: str
    dims: int
    make: Callable[[], nn.Module]
    ways: tuple[tuple[str, tuple[int, ...], float | None, float], ...]


def cases() -> list[Case]:
    """The networks that CycleGAN and Pix2Pix have, and small ones for volumes."""
    square, cube = (96, 96), (96, 96, 96)
    plain = (("windows", square, None, 0.0), ("windows, blended", square, None, 0.25))
    plain3 = (("windows", cube, None, 0.0), ("windows, blended", cube, None, 0.25))
    return [
        Case(
            "resnet, 9 blocks, width 32",
            2,
            lambda: ResNet(1, 1, 2, width=32, blocks=9),
            (("tiles", square, 16, 0.0), ("passes", (192, 184), math.inf, 0.0), *plain),
        ),
        Case(
            "unet, depth 5, width 32",
            2,
            lambda: UNet(1, 1, 2, width=32, depth=5),
            (("tiles", square, 16, 0.0), *plain),
        ),
        Case(
            "resnet, 1 block, 1 halving, width 6",
            3,
            lambda: ResNet(1, 1, 3, width=6, blocks=1, downs=1),
            (("tiles", cube, 8, 0.0), ("passes", cube, math.inf, 0.0), *plain3),
        ),
        Case(
            "unet, depth 4, width 8, stem and head",
            3,
            lambda: UNet(1, 1, 3, width=8, depth=4, stem=1, head=1),
            (("tiles", cube, 64, 0.0), *plain3),
        ),
    ]


def drawn(network: nn.Module, seed: int = 0) -> nn.Module:
    """The network with weights at which signals neither fade nor grow, and its output uses its range."""
    generator = torch.Generator().manual_seed(seed)
    for part in network.modules():
        if isinstance(part, (nn.Conv2d, nn.Conv3d)):
            spread = math.sqrt(2 / part.weight[0].numel())
            part.weight.data = spread * torch.randn(part.weight.shape, generator=generator)
    return network.eval().requires_grad_(False)


def border(image: Tensor, cuts: list[list[int]]) -> Iterator[Tensor]:
    """Absolute gradients of (N, D, *size) across the planes between pixels cut - 1 and cut of each axis."""
    for axis, places in enumerate(cuts, 2):
        if places:
            at = torch.tensor(places)
            yield (image.index_select(axis, at) - image.index_select(axis, at - 1)).abs().flatten()


def compare(network: nn.Module, images: Tensor, way: tuple, reference: Tensor) -> dict:
    """One way through a network, beside the whole images' output."""
    name, window, level, overlap = way
    began, plan = time.perf_counter(), ""
    if level is None:
        size = tuple(max(side, part) for side, part in zip(images.shape[2:], window, strict=True))
        larger, inside = padded(images.numpy(), size)
        done = by_windows(larger, window, overlap, lambda part: network(torch.from_numpy(part)).numpy())
        done = torch.from_numpy(done[(..., *inside)])
        shared = [part - max(1, int(part * (1 - overlap))) for part in window]
        starts = [sorted({tile.box[axis].start for tile in tiles(size, window, shared, (1,) * len(size))})
                  for axis in range(len(window))]  # fmt: skip
        cuts = [along[1:] for along in starts]
    else:
        tiling = Tiling(network, network, window=window, memory=0, level=level, overlap=overlap)
        done, found = tiling(images), tiling.plan(tuple(images.shape[1:]))
        plan = str(found)
        larger, inside = padded(images, found.size)
        step = tiling._needs.align(found.split)
        inner = [tile.inner for tile in tiles(found.size, found.window, tiling._around(found.split), step)]
        cuts = [sorted({part[axis].start for part in inner} - {0}) for axis in range(len(window))]
    seconds = time.perf_counter() - began
    shown = [
        [cut - part.start for cut in along if 0 < cut - part.start < part.stop - part.start]
        for along, part in zip(cuts, inside, strict=True)
    ]
    spread = reference.max() - reference.min()
    steps = {
        key: torch.cat(list(border(image, shown))).mean()
        for key, image in (("done", done), ("whole", reference), ("off", done - reference))
    }
    return {
        "way": name,
        "window": list(window),
        "plan": plan,
        "difference": ((done - reference).abs().max() / spread).item(),
        "mean_difference": ((done - reference).abs().mean() / spread).item(),
        "border": (steps["done"] / steps["whole"]).item(),
        "seam": (steps["off"] / steps["whole"]).item(),
        "seconds": seconds,
    }


def images_of(volume: np.ndarray, dims: int) -> Tensor:
    """(D, H, W) in network intensities: three of its axial slices, or all of it, as (N, 1, *size)."""
    chosen = volume[list(SLICES)][:, None] if dims == 2 else volume[None, None]
    return torch.from_numpy(np.ascontiguousarray(chosen, dtype=np.float32))


def trained(run: str, volume: Path) -> tuple[str, nn.Module, Tensor]:
    """A run's generator, and the volume in the intensities that it was trained on."""
    model = gantk.load(run, device="cpu")
    pixels = model.intensity["a"].forward(read(volume).pixels)
    return f"{model.model.method.name}, trained", model.method.g_ab, images_of(pixels[0], model.model.data.dims)


def measure(name: str, dims: int, network: nn.Module, images: Tensor, ways: tuple) -> dict:
    """All ways through one network."""
    with torch.no_grad():
        began = time.perf_counter()
        reference = Tiling(network, network, memory=1 << 44)(images)
        row = {"network": name, "dims": dims, "whole_seconds": time.perf_counter() - began, "ways": []}
        print(f"{name}, {dims}-D, whole: {row['whole_seconds']:.1f} s")
        for way in ways:
            found = compare(network, images, way, reference)
            row["ways"].append(found)
            print(
                f"  {found['way']:<17} difference {found['difference']:.1e}   border {found['border']:.3f}   "
                f"seam {found['seam']:.1e}   {found['seconds']:.1f} s   {found['plan']}"
            )
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("volume", type=Path, help="a T1 volume")
    parser.add_argument("--run", action="append", default=[], help="a trained run; may be given again")
    parser.add_argument("--dims", type=int, nargs="+", choices=(2, 3), default=[2, 3])
    parser.add_argument("--json", metavar="FILE")
    options = parser.parse_args()

    volume = read(options.volume).pixels[0]
    top = np.percentile(volume, 99.5)
    jobs = [
        (case.name, case.dims, drawn(case.make()), images_of(volume / top * 2 - 1, case.dims), case.ways)
        for case in cases()
        if case.dims in options.dims
    ]
    for run in options.run:
        name, network, images = trained(run, options.volume)
        dims = images.ndim - 2
        ways = next(case.ways for case in cases() if case.dims == dims)
        jobs.append((name, dims, network, images, tuple(way for way in ways if way[0] != "passes")))
    rows = [measure(*job) for job in jobs]
    if options.json:
        record = {
            "date": date.today().isoformat(),
            "machine": describe(start("cpu", "fp32")),
            "volume": options.volume.name,
            "what": "difference: largest, of the range of the whole image's output; border: gradient across borders of "
            "tiles over the whole image's at the same places; seam: gradient of the difference there, over the same",
            "rows": rows,
        }
        Path(options.json).write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
