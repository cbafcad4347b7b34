"""Whether tiles agree: one patient's T1 through networks whole, in tiles, and in windows on their own, in float32.

    python benchmarks/tiles.py VOLUME [--dims 2 3] [--json FILE]

The networks have weights drawn from a seed, with a gain at which their outputs vary. Compared with the whole image are
`tiles` (the image's own norm statistics; small maps whole) and `windows` (what was usual: each with its own statistics)
by

    difference   the largest, as a part of the range of the whole image's output
    seam         the gradient of the difference in the plane where it is largest, over the mean gradient of the whole
                 image's output: 0 where there is none
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from harness import parser, record, table, write
from torch import Tensor, nn

from gantk.formats.files import read
from gantk.inference.tiles import Tiling
from gantk.inference.windows import by_windows, padded
from gantk.machine.runtime import start
from gantk.nets.resnet import ResNet
from gantk.nets.unet import UNet

SLICES = (70, 85, 100)  # planes of the volume, counted from below
SIDE = 96  # of a tile
CASES: tuple[
    tuple[str, int, Callable[[], nn.Module], int], ...
] = (  # name, dims, network, level of a tile's smallest map
    ("resnet, 9 blocks, width 32", 2, lambda: ResNet(1, 1, 2, width=32, blocks=9), 16),
    ("unet, depth 5, width 32", 2, lambda: UNet(1, 1, 2, width=32, depth=5), 16),
    ("resnet, 1 block, 1 halving, width 6", 3, lambda: ResNet(1, 1, 3, width=6, blocks=1, downs=1), 8),
    ("unet, depth 4, width 8, stem and head", 3, lambda: UNet(1, 1, 3, width=8, depth=4, stem=1, head=1), 64),
)


def drawn(network: nn.Module, seed: int = 0) -> nn.Module:
    """The network with weights at which signals neither fade nor grow, and its output uses its range."""
    generator = torch.Generator().manual_seed(seed)
    for part in network.modules():
        if isinstance(part, (nn.Conv2d, nn.Conv3d)):
            spread = math.sqrt(2 / part.weight[0].numel())
            part.weight.data = spread * torch.randn(part.weight.shape, generator=generator)
    return network.eval().requires_grad_(False)


def seam(done: Tensor, whole: Tensor) -> float:
    """The largest, over all planes between neighbouring pixels, of the mean absolute gradient of done - whole there,
    over the mean absolute gradient of the whole image's output."""
    steps = []
    for axis in range(2, whole.ndim):
        others = [each for each in range(whole.ndim) if each != axis]
        between = (done - whole).diff(dim=axis).abs().mean(others)
        steps.append(float(between.max() / whole.diff(dim=axis).abs().mean()))
    return max(steps)


def in_windows(network: nn.Module, images: Tensor, overlap: float) -> Tensor:
    """Windows with their own statistics, side by side or blended."""
    larger, inside = padded(images.numpy(), tuple(max(side, SIDE) for side in images.shape[2:]))
    window = (SIDE,) * (images.ndim - 2)
    done = by_windows(larger, window, overlap, lambda part: network(torch.from_numpy(part)).numpy())
    return torch.from_numpy(done[(..., *inside)])


def measure(network: nn.Module, images: Tensor, level: int) -> list[dict]:
    """All ways through one network, beside the whole."""
    window = (SIDE,) * (images.ndim - 2)
    whole = Tiling(network, network, memory=1 << 44)(images)
    ways = {
        "tiles": lambda: Tiling(network, network, window=window, memory=0, level=level)(images),
        "windows": lambda: in_windows(network, images, 0.0),
        "windows, blended": lambda: in_windows(network, images, 0.25),
    }
    rows = []
    for name, way in ways.items():
        began = time.perf_counter()
        done = way()
        seconds = time.perf_counter() - began
        difference = float((done - whole).abs().max() / (whole.max() - whole.min()))
        rows.append({"way": name, "difference": difference, "seam": seam(done, whole), "seconds": seconds})
    return rows


def main(arguments: list[str] | None = None) -> None:
    options = parser(__doc__)
    options.add_argument("volume", type=Path, help="a T1 volume")
    options.add_argument("--dims", type=int, nargs="+", choices=(2, 3), default=[2, 3])
    options = options.parse_args(arguments)
    volume = read(options.volume).pixels[0]
    volume = np.ascontiguousarray(volume / np.percentile(volume, 99.5) * 2 - 1, dtype=np.float32)
    rows = []
    for name, dims, make, level in CASES:
        if dims in options.dims:
            images = torch.from_numpy(volume[list(SLICES)][:, None] if dims == 2 else volume[None, None])
            with torch.no_grad():
                rows += [{"network": name, "dims": dims} | row for row in measure(drawn(make()), images, level)]
    write(options.json, record(start("cpu", "fp32"), volume=options.volume.name, rows=rows))
    cells = (
        (r["network"], r["way"], f"{r['difference']:.1e}", f"{r['seam']:.1e}", f"{r['seconds']:.1f}") for r in rows
    )
    print(table(["network", "way", "difference", "seam", "s"], cells))


if __name__ == "__main__":
    main()
