"""Images as vectors of numbers in which two sets of images can be compared."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gantk.errors import UserError
from gantk.metrics.feature_files import onnx_backbone, timm_backbone

PASS = 32  # images that go through a network at once
GRAY_SIDE = 128  # random features look at images no larger than this
WEIGHTS = (".pt", ".pth", ".ts", ".safetensors", ".bin", ".ckpt", ".tar")
INCEPTION_FILE = "pt_inception-2015-12-05-6726825d.pth"


class RandomConv(nn.Module):
    """A convolutional network of random weights: 256 numbers of a gray image (N, 1, H, W) from 0 to 1.

    Four levels of 32 filters of 5 x 5, each level at half the size of the one before. A level's responses are averaged
    over a grid of 4 x 4, so that the layout counts as well as the texture, and mixed down to 64 numbers. All but one of
    the first filters sum to 0: they see edges whatever the brightness; that one sees the brightness. No weight is
    learned from photographs, and none has to be downloaded. The same seed is the same network.
    """

    width, levels, grid, mixed = 32, 4, 4, 64
    channels = 1

    def __init__(self, seed: int = 0):
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.filters, self.mixers = nn.ParameterList(), nn.ParameterList()
        for level in range(self.levels):
            filters = torch.randn(self.width, 1 if level == 0 else self.width, 5, 5, generator=generator)
            filters = filters - filters.mean((2, 3), keepdim=True) if level == 0 else filters
            filters = filters / filters.flatten(1).norm(dim=1)[:, None, None, None]
            if level == 0:
                filters[0] = 1 / 25
            cells = self.width * self.grid**2
            mixer = torch.randn(cells, self.mixed, generator=generator) / cells**0.5
            self.filters.append(nn.Parameter(filters, requires_grad=False))
            self.mixers.append(nn.Parameter(mixer, requires_grad=False))

    def forward(self, x: Tensor) -> Tensor:
        if max(x.shape[2:]) > GRAY_SIDE:
            scale = GRAY_SIDE / max(x.shape[2:])
            x = F.interpolate(x, [max(1, round(side * scale)) for side in x.shape[2:]], mode="area")
        found = []
        for filters, mixer in zip(self.filters, self.mixers, strict=True):
            x = F.leaky_relu(F.conv2d(x, filters, padding=2), 0.2)
            found.append(F.adaptive_avg_pool2d(x, self.grid).flatten(1) @ mixer)
            x = F.avg_pool2d(x, 2, ceil_mode=True)
        return torch.cat(found, 1)


class Features:
    """Vectors of images (N, C, *size), counted from black (0 to `data_range`): (N, d) float64 numpy.

    `features`: "random", the network above; "inception", the one that FID and KID were published with (pytorch-fid's
    2048 numbers); "NAME.onnx", a file; any other name, a backbone of timm, with its pretrained weights or with those of
    the file `weights`. Files are found by their path or in $GANTK_WEIGHTS. A network sees images of as many channels as
    it has as they are, and of any other number each contrast on its own, as a gray picture; values beyond the data
    range are cut off, and within it none is rounded. A volume is its three slices through the middle, one along each
    axis. What is seen apart is concatenated. `mean`, `std` and `side` are for files and timm's networks.

    UserError where a file is absent or of another network, and where an image holds values that are no numbers.
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
        self.data_range, self.dims = data_range, dims
        self.standardised = features == "random"  # numbers without a scale of their own: training images must set it
        options = {"weights": weights, "mean": mean, "std": std, "side": side}
        # `suffix` ends a score's name: the published features alone have none, and give a score its plain name
        self.network, self.what, self.suffix = _network(features, options)
        self.network.eval().requires_grad_(False)
        if dims == 3:
            self.what += "-of-middle-slices"

    def __call__(self, images: Tensor) -> np.ndarray:
        self.network.to(images.device)
        found, sound = [], []
        with torch.no_grad(), torch.autocast(images.device.type, enabled=False):
            for part in images.split(PASS):
                sound.append(part.isfinite().all())  # asked once, at the end: the device need not wait
                found.append(self._of(part.float() / self.data_range))
        if not torch.stack(sound).all():
            what = "an image holds values that are no numbers (NaN or infinite), so its set cannot be compared"
            raise UserError(what, where="evaluate.metrics", remedy="look at what made it, and leave it out")
        return torch.cat(found).cpu().double().numpy()

    def _of(self, images: Tensor) -> Tensor:
        channels, found = self.network.channels, []
        for picture in middle_slices(images) if self.dims == 3 else [images]:
            picture = picture.clamp(0, 1)
            apart = [each.expand(-1, channels, -1, -1) for each in picture.split(1, 1)]
            seen = [picture] if picture.shape[1] == channels else apart
            found += [self.network(each).flatten(1) for each in seen]
        return torch.cat(found, 1)


def middle_slices(volumes: Tensor) -> list[Tensor]:
    """(N, C, D, H, W) as its three slices through the middle: (N, C, H, W), (N, C, D, W), (N, C, D, H)."""
    return [volumes.select(axis, volumes.shape[axis] // 2) for axis in (2, 3, 4)]


class _Inception(nn.Module):
    """pytorch-fid's Inception, last pooling: 2048 numbers of pictures (N, 3, H, W) from 0 to 1, at 299 pixels."""

    channels = 3

    def __init__(self) -> None:
        super().__init__()
        self.network = inception_network().to(memory_format=torch.channels_last)

    def forward(self, x: Tensor) -> Tensor:
        return self.network(x.contiguous(memory_format=torch.channels_last))[0]


def inception_network() -> nn.Module:
    """pytorch-fid's network with its own weights: $GANTK_WEIGHTS, torch's cache or the web; UserError otherwise."""
    from pytorch_fid import inception

    here = _file(INCEPTION_FILE)
    download = inception.load_state_dict_from_url
    if here is not None:  # the constructor knows no other way to be given weights
        inception.load_state_dict_from_url = lambda *_, **__: torch.load(here, map_location="cpu", weights_only=True)
    try:
        with torch.random.fork_rng(devices=[]):  # weights are drawn before they are replaced
            return inception.InceptionV3([inception.InceptionV3.BLOCK_INDEX_BY_DIM[2048]])
    except OSError as error:
        raise UserError(
            f"the weights of the feature network 'inception' are absent ({error})",
            where="evaluate.metrics",
            remedy=f'put {INCEPTION_FILE} into a folder and point GANTK_WEIGHTS to it, or use features = "random"',
        ) from None
    finally:
        inception.load_state_dict_from_url = download


def _file(name: str) -> Path | None:
    """A weight file in $GANTK_WEIGHTS or in torch's own cache."""
    from gantk.nets.pretrained import weights_file

    cached = Path(torch.hub.get_dir()) / "checkpoints" / name
    return weights_file(name) or (cached if cached.is_file() else None)


def _network(features: str, options: dict[str, Any]) -> tuple[nn.Module, str, str]:
    """The network of that name, what a definition says of it, and what the name of a score ends with."""
    given = {name: value for name, value in options.items() if value is not None}
    taken = () if features in ("random", "inception") else ("mean", "std", "side")
    if Path(features).suffix in WEIGHTS:
        what = f'features = "{features}" is a file of weights, which does not say what network it belongs to'
        remedy = f'write features = "resnet50", weights = "{features}", with the timm name of its network'
        raise UserError(what, where="evaluate.metrics", remedy=remedy)
    file = Path(features).suffix == ".onnx"
    taken += () if file or not taken else ("weights",)
    unused = next((name for name in given if name not in taken), None)
    if unused:
        what = f"the features '{features}' take no `{unused}`"
        raise UserError(what, where="evaluate.metrics", allowed=taken or "no options")
    if features == "random":
        return RandomConv(0), "random-conv-256-seed-0", "_random"
    if features == "inception":
        return _Inception(), "inception-2048", ""
    others = {name: options[name] for name in taken}
    network, what, name = onnx_backbone(features, **others) if file else timm_backbone(features, **others)
    asked = "".join(f"-{key}={value}" for key, value in given.items() if key != "weights")
    return network, what + asked, f"_{name}"
