"""Feature vectors for the comparison of sets of images, from a seeded network or from one that a
plugin registers.
"""

from __future__ import annotations

import inspect
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gantk.errors import UserError
from gantk.plugin.loader import registry

WHERE = "evaluate.metrics"
IMAGES_PER_PASS = 32
MAX_GRAY_SIDE = 128  # for random features; larger images are shrunk


class Features:
    """Computes feature vectors of images (N, C, *size) with intensities from 0 (black) to
    `data_range`: (N, d) float64.

    `features`: the name of registered features ("random"; "inception", which FID and KID were
    published with), a file with such a name as its suffix ("NAME.onnx"), or else a network of timm.
    What is registered is called with this name and the given ones of `weights`, `mean`, `std` and
    `side`; it returns a network from pictures (n, `channels`, H, W), 0 to 1, to vectors (n, d),
    with a `suffix` for the score's name and a description `what`.

    Images with that number of channels are passed as they are; otherwise each channel is passed as
    a gray picture. Of a volume the three middle slices are passed. The vectors of the parts are
    concatenated. Values beyond the data range are clipped, the others not rounded. UserError if an
    image holds NaN or infinite values.
    """

    def __init__(
        self,
        features: str,
        data_range: float,
        dims: int,
        *,
        weights: str | None = None,
        mean: list[float] | None = None,
        std: list[float] | None = None,
        side: int | None = None,
    ):
        self.data_range = data_range
        self.dims = dims
        options = {"weights": weights, "mean": mean, "std": std, "side": side}
        given = {name: value for name, value in options.items() if value is not None}
        make = registry().get("features", _registered_name(features)).load()
        parameters = inspect.signature(make).parameters
        unknown = given.keys() - parameters.keys()
        if unknown:
            raise UserError(
                f"the features '{features}' have no option `{min(unknown)}`",
                where=WHERE,
                allowed=[name for name in options if name in parameters] or "no options",
            )

        self.network = make(features, **given).eval().requires_grad_(False)
        self.suffix = self.network.suffix
        self.standardised = getattr(self.network, "standardised", False)
        self.what = self.network.what + "".join(
            f"-{key}={given[key]}" for key in given if key != "weights"
        )
        if dims == 3:
            self.what += "-of-middle-slices"

    @torch.no_grad()
    def __call__(self, images: Tensor) -> np.ndarray:
        self.network.to(images.device)
        vectors = []
        finite = []
        channels = self.network.channels
        with torch.autocast(images.device.type, enabled=False):
            for part in images.split(IMAGES_PER_PASS):
                finite.append(part.isfinite().all())  # read once, at the end: one synchronisation
                part = part.float() / self.data_range
                numbers = []
                for picture in middle_slices(part) if self.dims == 3 else [part]:
                    picture = picture.clamp(0, 1)
                    if picture.shape[1] == channels:
                        seen = [picture]
                    else:
                        seen = [gray.expand(-1, channels, -1, -1) for gray in picture.split(1, 1)]
                    numbers += [self.network(each).flatten(1) for each in seen]

                vectors.append(torch.cat(numbers, 1))

        if not torch.stack(finite).all():
            what = "an image contains NaN or infinite values, so its set cannot be compared"
            raise UserError(what, where=WHERE, remedy="find the cause, or leave the image out")

        return torch.cat(vectors).cpu().double().numpy()


def _registered_name(features: str) -> str:
    """The registered features that a name, or a file's suffix, stands for; else those of timm."""
    known = registry().names("features")
    for name in (features, Path(features).suffix[1:]):
        if name in known:
            return name
    return "timm"


def published_metrics() -> list[dict[str, str]]:
    """Metrics as they were published: of registered features whose weights, or of packages that are
    installed.
    """
    found = []
    # by kind, the key of a metric's table that names the part
    for kind, key in (("features", "features"), ("metric", "name")):
        for entry in registry().of_kind(kind):
            with suppress(UserError):  # of a plugin that does not load
                part: Any = entry.load()
                for name in getattr(part, "published", ()):
                    if part.at_hand():
                        found.append({"name": name, key: entry.name})

    return found


def middle_slices(volumes: Tensor) -> list[Tensor]:
    """The middle slices of volumes (N, C, D, H, W) across the axes D, H and W."""
    return [volumes.select(axis, volumes.shape[axis] // 2) for axis in (2, 3, 4)]


class RandomConv(nn.Module):
    """A convolutional network of random weights: 256 features of a gray image (N, 1, H, W) from 0
    to 1.

    Four levels of 32 filters of 5 x 5, each level at half the size of the one before. Responses of
    a level are averaged over a grid of 4 x 4, so that position counts as well as texture, and mixed
    down to 64 features. All but one of the first filters sum to 0: they respond to edges, whatever
    the brightness; that one measures brightness. The weights are seeded, not learned, and need no
    file. The features have no scale of their own: training images must set it.
    """

    channels = 1
    what = "random-conv-256-seed-0"
    suffix = "_random"
    standardised = True

    def __init__(self, name: str = "random"):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.filters = nn.ParameterList()
        self.mixers = nn.ParameterList()
        for level in range(4):
            filters = torch.randn(32, 32 if level else 1, 5, 5, generator=generator)
            if level == 0:
                filters = filters - filters.mean((2, 3), keepdim=True)

            filters = filters / filters.flatten(1).norm(dim=1)[:, None, None, None]
            if level == 0:
                filters[0] = 1 / 25

            mixer = torch.randn(32 * 4**2, 64, generator=generator) / (32 * 4**2) ** 0.5
            self.filters.append(nn.Parameter(filters, requires_grad=False))
            self.mixers.append(nn.Parameter(mixer, requires_grad=False))

    def forward(self, x: Tensor) -> Tensor:
        if max(x.shape[2:]) > MAX_GRAY_SIDE:
            scale = MAX_GRAY_SIDE / max(x.shape[2:])
            x = F.interpolate(x, [max(1, round(side * scale)) for side in x.shape[2:]], mode="area")

        found = []
        for filters, mixer in zip(self.filters, self.mixers, strict=True):
            x = F.leaky_relu(F.conv2d(x, filters, padding=2), 0.2)
            found.append(F.adaptive_avg_pool2d(x, 4).flatten(1) @ mixer)
            x = F.avg_pool2d(x, 2, ceil_mode=True)

        return torch.cat(found, 1)
