"""Images as vectors of numbers in which two sets of images can be compared."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gantk.errors import UserError

PASS = 32  # images that go through a network at once
GRAY_SIDE = 128  # random features look at images no larger than this
INCEPTION_FILE = "pt_inception-2015-12-05-6726825d.pth"


class RandomConv(nn.Module):
    """A convolutional network of random weights: 256 numbers of a gray image (N, 1, H, W) from 0 to 1.

    Four levels of 32 filters of 5 x 5, each level at half the size of the one before. A level's responses are averaged
    over a grid of 4 x 4, so that the layout counts as well as the texture, and mixed down to 64 numbers. All but one of
    the first filters sum to 0: they see edges whatever the brightness; that one sees the brightness. No weight is
    learned from photographs, and none has to be downloaded. The same seed is the same network.
    """

    width, levels, grid, mixed = 32, 4, 4, 64

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
    2048 numbers); any other name, a backbone of timm with its pretrained weights. A network trained on photographs sees
    3 channels as they are, and any other number of contrasts each on its own, as gray pictures; random features always
    see each contrast on its own. A volume is its three slices through the middle, one along each axis. What is seen
    apart is concatenated. UserError where a weight file is absent.
    """

    def __init__(self, features: str, data_range: float, dims: int):
        self.choice, self.data_range, self.dims = features, data_range, dims
        self.network, self.what = _NETWORKS.get(features, lambda: _timm(features))()
        self.network.eval().requires_grad_(False)
        if dims == 3:
            self.what += "-of-middle-slices"

    @property
    def suffix(self) -> str:
        """What the name of a score of these features ends with: nothing for the published ones alone."""
        return "" if self.choice == "inception" else f"_{self.choice}"

    @property
    def standardised(self) -> bool:
        """Whether the numbers have no scale of their own, so that training images must set it."""
        return self.choice == "random"

    def __call__(self, images: Tensor) -> np.ndarray:
        self.network.to(images.device)
        with torch.no_grad(), torch.autocast(images.device.type, enabled=False):
            parts = [self._of(part.float() / self.data_range) for part in images.split(PASS)]
        return torch.cat(parts).double().cpu().numpy()

    def _of(self, images: Tensor) -> Tensor:
        pictures = middle_slices(images) if self.dims == 3 else [images]
        found = []
        for picture in pictures:
            if self.choice == "random":
                seen = picture.split(1, 1)
            elif picture.shape[1] == 3:
                seen = [picture]
            else:
                seen = [contrast.expand(-1, 3, -1, -1) for contrast in picture.split(1, 1)]
            found += [self.network(each.clamp(0, 1)).flatten(1) for each in seen]
        return torch.cat(found, 1)


def middle_slices(volumes: Tensor) -> list[Tensor]:
    """(N, C, D, H, W) as its three slices through the middle: (N, C, H, W), (N, C, D, W), (N, C, D, H)."""
    return [volumes.select(axis, volumes.shape[axis] // 2) for axis in (2, 3, 4)]


def _random() -> tuple[nn.Module, str]:
    return RandomConv(0), "random-conv-256-seed-0"


class _Inception(nn.Module):
    """pytorch-fid's Inception, last pooling: 2048 numbers of pictures (N, 3, H, W) from 0 to 1, at 299 pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.network = inception_network()

    def forward(self, x: Tensor) -> Tensor:
        return self.network(x)[0]


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
    from gantk.weights import weights_file

    cached = Path(torch.hub.get_dir()) / "checkpoints" / name
    return weights_file(name) or (cached if cached.is_file() else None)


class _Backbone(nn.Module):
    """A timm backbone's pooled features of pictures (N, 3, H, W) from 0 to 1, at the size it was trained at."""

    def __init__(self, name: str):
        super().__init__()
        from gantk.weights import timm_model

        self.network = timm_model(name, "pretrained", num_classes=0)
        known = self.network.pretrained_cfg
        self.size = tuple(known.get("input_size", (3, 224, 224)))[1:]
        mean, std = known.get("mean", (0.485, 0.456, 0.406)), known.get("std", (0.229, 0.224, 0.225))
        self.register_buffer("mean", torch.tensor(mean)[:, None, None])
        self.register_buffer("std", torch.tensor(std)[:, None, None])

    def forward(self, x: Tensor) -> Tensor:
        x = F.interpolate(x, self.size, mode="bilinear", antialias=True, align_corners=False)
        return self.network((x - self.mean) / self.std)


def _timm(name: str) -> tuple[nn.Module, str]:
    return _Backbone(name), f"{name}-pretrained"


_NETWORKS: dict[str, Callable[[], tuple[nn.Module, str]]] = {
    "random": _random,
    "inception": lambda: (_Inception(), "inception-2048"),
}
