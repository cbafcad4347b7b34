"""The baselines that a model must beat: the unchanged input, histogram matching, and the best intensity
map. Plugins register others, which may be trained; a run keeps the weights of these.

A baseline takes images (N, C, *size) and returns images, so that every metric scores it as it
scores a model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from gantk.files import expect_inside, make_folder, read_file, write_file
from gantk.machine.runtime import Runtime
from gantk.method import direction_to
from gantk.plugin.spec import bind

QUANTILES = 4096  # of a domain's pooled intensities
BINS = 256  # of the intensity map
MAX_BASELINE_IMAGES = 64  # training images for histograms and intensity maps
PIXELS = 2**16  # at most of each training image, for the intensity map
FOLDER = "baselines"  # of a run, with the weights of those that are trained


def identity(source: Tensor, channels: int) -> Tensor:
    """The source itself, unchanged; if the channel counts differ, its channel mean, repeated."""
    if channels == source.shape[1]:
        return source
    return source.mean(1, keepdim=True).expand(-1, channels, *source.shape[2:])


class HistogramMatching:
    """Maps each image to the intensity distribution of the target domain's training images. It
    needs no pairs.

    Pixels keep their order by brightness: the pixel at quantile q gets the target domain's pooled
    quantile q. Pixels of equal value, such as air, get the quantile at the middle of their ranks,
    so that they stay equal.
    """

    def __init__(self, target: Iterable[Tensor]):
        """`target`: the target domain's training images, (C, *size) each, one or more."""
        self.levels = np.linspace(0, 1, QUANTILES)
        # The same number of quantiles from each image, whatever its size: each image has the same
        # weight.
        pools = [
            np.quantile(flat(image), self.levels, axis=1, method="nearest") for image in target
        ]
        # (QUANTILES, C)
        self.quantiles = np.quantile(np.concatenate(pools), self.levels, axis=0)

    def __call__(self, source: Tensor) -> Tensor:
        from scipy.stats import rankdata  # slow import

        images = identity(source, self.quantiles.shape[1]).detach().float().cpu().numpy()
        ranks = rankdata(
            images.reshape(*images.shape[:2], -1), axis=2
        )  # the mean one of equal pixels
        middles = (ranks - 0.5) / ranks.shape[2]
        channels = [
            np.interp(middles[:, c], self.levels, quantiles)
            for c, quantiles in enumerate(self.quantiles.T)
        ]
        matched = np.stack(channels, 1).reshape(images.shape)
        return torch.from_numpy(matched.astype(np.float32)).to(source.device)


class IntensityMap:
    """The best look-up table: the mean target intensity of every source intensity, fitted on
    training pairs.

    It has 256 bins of the source intensity (channel mean), is linear between their mean intensities
    and constant beyond the ends. The map need not be monotonic, so it can invert contrast. A model
    that does not beat it has learned only brightness and no anatomy.
    """

    def __init__(self, pairs: Iterable[tuple[Tensor, Tensor]]):
        """`pairs`: registered (source, target) training images, (C, *size) each; 65536 random
        pixels of larger ones.
        """
        images = [_some_pixels(flat(source).mean(0), flat(target)) for source, target in pairs]
        source, target = (np.concatenate(parts, -1) for parts in zip(*images, strict=True))
        step = max((source.max() - source.min()) / BINS, np.finfo(np.float32).tiny)
        bins = np.clip(((source - source.min()) / step).astype(int), 0, BINS - 1)
        sums = np.stack([np.bincount(bins, values, BINS) for values in (source, *target)])
        counts = np.bincount(bins, minlength=BINS)
        self.places, *self.means = sums[:, counts > 0] / counts[counts > 0]

    def __call__(self, source: Tensor) -> Tensor:
        values = source.detach().float().cpu().numpy().mean(1)
        mapped = np.stack([np.interp(values, self.places, means) for means in self.means], 1)
        return torch.from_numpy(mapped.astype(np.float32)).to(source.device)


def flat(image: Tensor) -> np.ndarray:
    """(C, *size) as a float64 array (C, positions)."""
    return image.detach().cpu().double().flatten(1).numpy()


def _some_pixels(source: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The same PIXELS random positions (seeded) of both, so that a data set of volumes fits into
    memory.
    """
    if source.size <= PIXELS:
        return source, target
    chosen = np.random.default_rng(0).choice(source.size, PIXELS, replace=False)
    return source[chosen], target[:, chosen]


def keep_weights(run: Path, trained: Mapping[tuple[str, str], Any]) -> None:
    """Write the weights of trained baselines, which are given by name and target domain, into a run's
    folder; of those that are modules of PyTorch.
    """
    from safetensors.torch import save

    for (name, to), baseline in trained.items():
        if isinstance(baseline, nn.Module):
            weights = {key: value.contiguous() for key, value in baseline.state_dict().items()}
            folder = make_folder(expect_inside(run, run / FOLDER))
            write_file(folder / _file_of(name, to), save(weights))


def load_trained(
    run: Path,
    name: str,
    to: str,
    blank: tuple[Tensor, Tensor],
    range: tuple[float, float],
    runtime: Runtime,
) -> Callable[[Tensor], Tensor] | None:
    """The trained baseline of a run that makes images of domain `to`; None where the run keeps none.

    `blank`: a source and a target of its training, (C, *size), whose values do not matter; `range`: the
    network intensities of black and white.
    """
    from safetensors.torch import load

    file = run / FOLDER / _file_of(name, to)
    if not file.is_file():
        return None
    build = bind("baseline", {"name": name, "steps": 0})
    baseline = build([blank], blank[0].ndim - 1, *range, runtime)
    baseline.load_state_dict(load(read_file(file, run)))
    return baseline


def _file_of(name: str, to: str) -> str:
    return f"{name}-{direction_to(to)}.safetensors"
