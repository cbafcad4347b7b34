"""Feature networks, in whose vectors sets of images are compared: random, Inception, timm, or a network from a file.

Weights are read as tensors alone. A TorchScript file is a program, which would run when it is opened, and is refused.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gantk.errors import UserError
from gantk.nets.pretrained import read_state, timm_model, weights_file
from gantk.plugin.loader import registry

WHERE = "evaluate.metrics"
PASS = 32  # images that go through a network at once
GRAY_SIDE = 128  # random features look at images no larger than this
SIDE = 224  # pixels, where neither the file nor the recipe says another size
WEIGHTS = (".pt", ".pth", ".ts", ".safetensors", ".bin", ".ckpt", ".tar")
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of photographs, where timm says nothing of a network
INCEPTION_FILE = "pt_inception-2015-12-05-6726825d.pth"


class Features:
    """Vectors of images (N, C, *size), counted from black (0 to `data_range`): (N, d) float64 numpy.

    `features`: "random", a seeded network; "inception", the one that FID and KID were published with (pytorch-fid's
    2048 numbers); "NAME.onnx", a file; any other name, a backbone of timm, with its pretrained weights or with those of
    the file `weights`. Files are found by their path or in $GANTK_WEIGHTS. A network sees images of as many channels as
    it has as they are, and of any other number each contrast on its own, as a gray picture; values beyond the data
    range are cut off, and within it none is rounded. A volume is its three slices through the middle. What is seen
    apart is concatenated. `mean`, `std` and `side` are for files and timm's networks.

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
        given = {name: value for name, value in options.items() if value is not None}
        kind = features if features in ("random", "inception") else Path(features).suffix
        if kind in WEIGHTS:
            what = f'features = "{features}" is a file of weights, which does not say what network it belongs to'
            remedy = f'write features = "resnet50", weights = "{features}", with the timm name of its network'
            raise UserError(what, where=WHERE, remedy=remedy)
        taken = {"random": (), "inception": (), ".onnx": ("mean", "std", "side")}.get(kind, tuple(options))
        if given.keys() - set(taken):
            what = f"the features '{features}' take no `{min(given.keys() - set(taken))}`"
            raise UserError(what, where=WHERE, allowed=taken or "no options")
        # `suffix` ends a score's name: the published features alone have none, and give a score its plain name
        if kind == "random":
            self.network, self.what, self.suffix = RandomConv(0), "random-conv-256-seed-0", "_random"
        elif kind == "inception":
            self.network, self.what, self.suffix = Inception(), "inception-2048", ""
        else:
            self.network, self.what, name = (onnx_backbone if kind == ".onnx" else timm_backbone)(features, **given)
            self.what += "".join(f"-{key}={value}" for key, value in given.items() if key != "weights")
            self.suffix = "_" + re.sub(r"[^\w.-]+", "-", name)
        self.network.eval().requires_grad_(False)
        if dims == 3:
            self.what += "-of-middle-slices"

    @torch.no_grad()
    def __call__(self, images: Tensor) -> np.ndarray:
        self.network.to(images.device)
        found, sound, channels = [], [], self.network.channels
        with torch.autocast(images.device.type, enabled=False):
            for part in images.split(PASS):
                sound.append(part.isfinite().all())  # asked once, at the end: the device need not wait
                part, numbers = part.float() / self.data_range, []
                for picture in middle_slices(part) if self.dims == 3 else [part]:
                    picture = picture.clamp(0, 1)
                    apart = [each.expand(-1, channels, -1, -1) for each in picture.split(1, 1)]
                    seen = [picture] if picture.shape[1] == channels else apart
                    numbers += [self.network(each).flatten(1) for each in seen]
                found.append(torch.cat(numbers, 1))
        if not torch.stack(sound).all():
            what = "an image holds values that are no numbers (NaN or infinite), so its set cannot be compared"
            raise UserError(what, where=WHERE, remedy="look at what made it, and leave it out")
        return torch.cat(found).cpu().double().numpy()


def middle_slices(volumes: Tensor) -> list[Tensor]:
    """(N, C, D, H, W) as its three slices through the middle: (N, C, H, W), (N, C, D, W), (N, C, D, H)."""
    return [volumes.select(axis, volumes.shape[axis] // 2) for axis in (2, 3, 4)]


class RandomConv(nn.Module):
    """A convolutional network of random weights: 256 numbers of a gray image (N, 1, H, W) from 0 to 1.

    Four levels of 32 filters of 5 x 5, each level at half the size of the one before. A level's responses are averaged
    over a grid of 4 x 4, so that the layout counts as well as the texture, and mixed down to 64 numbers. All but one of
    the first filters sum to 0: they see edges whatever the brightness; that one sees the brightness. No weight is
    learned from photographs, and none has to be downloaded. The same seed is the same network.
    """

    channels = 1

    def __init__(self, seed: int = 0):
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.filters, self.mixers = nn.ParameterList(), nn.ParameterList()
        for level in range(4):
            filters = torch.randn(32, 32 if level else 1, 5, 5, generator=generator)
            filters = filters if level else filters - filters.mean((2, 3), keepdim=True)
            filters = filters / filters.flatten(1).norm(dim=1)[:, None, None, None]
            if level == 0:
                filters[0] = 1 / 25
            mixer = torch.randn(32 * 4**2, 64, generator=generator) / (32 * 4**2) ** 0.5
            self.filters.append(nn.Parameter(filters, requires_grad=False))
            self.mixers.append(nn.Parameter(mixer, requires_grad=False))

    def forward(self, x: Tensor) -> Tensor:
        if max(x.shape[2:]) > GRAY_SIDE:
            scale = GRAY_SIDE / max(x.shape[2:])
            x = F.interpolate(x, [max(1, round(side * scale)) for side in x.shape[2:]], mode="area")
        found = []
        for filters, mixer in zip(self.filters, self.mixers, strict=True):
            x = F.leaky_relu(F.conv2d(x, filters, padding=2), 0.2)
            found.append(F.adaptive_avg_pool2d(x, 4).flatten(1) @ mixer)
            x = F.avg_pool2d(x, 2, ceil_mode=True)
        return torch.cat(found, 1)


class Inception(nn.Module):
    """pytorch-fid's Inception, last pooling: 2048 numbers of pictures (N, 3, H, W) from 0 to 1, at 299 pixels.

    Its own weights come from $GANTK_WEIGHTS, torch's cache or the web; UserError otherwise.
    """

    channels = 3

    def __init__(self) -> None:
        from pytorch_fid import inception

        super().__init__()
        cached = Path(torch.hub.get_dir()) / "checkpoints" / INCEPTION_FILE
        path = weights_file(INCEPTION_FILE) or (cached if cached.is_file() else None)
        download = inception.load_state_dict_from_url
        if path is not None:  # the constructor knows no other way to be given weights
            inception.load_state_dict_from_url = lambda *_, **__: torch.load(path, map_location="cpu", weights_only=True)
        try:
            with torch.random.fork_rng(devices=[]):  # weights are drawn before they are replaced
                network = inception.InceptionV3([inception.InceptionV3.BLOCK_INDEX_BY_DIM[2048]])
        except OSError as error:
            what = f"the weights of the feature network 'inception' are absent ({error})"
            remedy = f'put {INCEPTION_FILE} into a folder and point GANTK_WEIGHTS to it, or use features = "random"'
            raise UserError(what, where=WHERE, remedy=remedy) from None
        finally:
            inception.load_state_dict_from_url = download
        self.network = network.to(memory_format=torch.channels_last)

    def forward(self, x: Tensor) -> Tensor:
        return self.network(x.contiguous(memory_format=torch.channels_last))[0]


class Backbone(nn.Module):
    """A network's pooled numbers (N, d) of pictures (N, channels, H, W) from 0 to 1, brought to its size and scale.

    The intensities stay floats throughout: nothing is rounded to 256 levels. A map of numbers (N, d, h, w) is averaged
    over its positions. UserError where the network does not take such pictures or gives neither.
    """

    def __init__(
        self, network: nn.Module, channels: int, size: Sequence[int], mean: Sequence[float], std: Sequence[float]
    ):
        super().__init__()
        self.network, self.channels, self.size = network, channels, tuple(size)
        for name, values in (("mean", mean), ("std", std)):
            found = torch.tensor([float(value) for value in values])
            if channels == 1 and len(found) == 3:  # of three colours: gray is all of them alike
                found = found.mean(0, keepdim=True)
            if len(found) not in (1, channels) or (name == "std" and not (found > 0).all()):
                allowed = f"1 or {channels} numbers, as many as the network has channels; std above 0"
                raise UserError(f"{name} = {list(values)} cannot be used", where=WHERE, allowed=allowed)
            self.register_buffer(name, found.expand(channels)[:, None, None].clone())
        try:
            with torch.no_grad():
                (_,) = self(torch.zeros(1, channels, *self.size)).flatten(1)
        except Exception as error:  # each network refuses in its own way
            what = f"the feature network does not take pictures of {channels} channels and {size[0]} x {size[1]} pixels, "
            what += f"or makes no vectors of them: {str(error)[:200]}"
            raise UserError(what, where=WHERE, remedy="set `side` to the pixels that it takes") from None

    def forward(self, x: Tensor) -> Tensor:
        if tuple(x.shape[2:]) != self.size:
            x = F.interpolate(x, self.size, mode="bilinear", antialias=True, align_corners=False)
        found = self.network(((x - self.mean) / self.std).contiguous(memory_format=torch.channels_last))
        return found.mean((2, 3)) if found.ndim == 4 else found


class OnnxNetwork(nn.Module):
    """An ONNX file as a module, run by onnxruntime on the CPU: its first output for its only input (N, C, H, W)."""

    def __init__(self, path: Path):
        super().__init__()
        (self.shape, *more), self.run = registry().get("exporter", "onnx").load()().network(path)
        if more or len(self.shape) != 4 or not isinstance(self.shape[1], int):
            what = f"'{path}' has {1 + len(more)} inputs, the first {self.shape}"
            raise UserError(what, where=WHERE, allowed="one of floats (N, C, H, W) whose number of channels is fixed")

    def forward(self, x: Tensor) -> Tensor:
        return torch.from_numpy(self.run(x.cpu().numpy()).astype(np.float32)).to(x.device)


def onnx_backbone(
    name: str, mean: Sequence[float] = (0.0,), std: Sequence[float] = (1.0,), side: int | None = None
) -> tuple[Backbone, str, str]:
    """The network of an ONNX file, what a definition says of it, and its short name; UserError where it is absent."""
    path = found_file(name)
    network = OnnxNetwork(path)
    fixed = all(isinstance(length, int) for length in network.shape[2:])
    size = tuple(network.shape[2:]) if fixed else (side or SIDE,) * 2
    if side is not None and size != (side, side):
        raise UserError(f"'{path}' takes {size[0]} x {size[1]} pixels, not side = {side}", where=WHERE)
    return Backbone(network, network.shape[1], size, mean, std), f"{path.name}-{fingerprint(path)}", path.stem


def timm_backbone(
    name: str,
    weights: str | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    side: int | None = None,
) -> tuple[Backbone, str, str]:
    """A timm network with its pretrained weights, or with those of a file; else as `onnx_backbone`."""
    if weights is None:
        network, what, short = timm_model(name, "pretrained", num_classes=0), f"{name}-pretrained", name
    else:
        path = found_file(weights)
        network, what, short = timm_with(name, path), f"{name}-{path.name}-{fingerprint(path)}", path.stem
    known, channels = network.pretrained_cfg, network.state_dict()[_stem(network)].shape[1]
    size = known.get("input_size", (3, SIDE, SIDE))[1:] if side is None else (side, side)
    scale = mean or known.get("mean", MEAN), std or known.get("std", STD)
    return Backbone(network.to(memory_format=torch.channels_last), channels, size, *scale), what, short


def timm_with(name: str, path: Path) -> nn.Module:
    """A timm network without its classifier, with a file's weights: for gray images where the file's are for those.

    A prefix before all names (`module.`, `backbone.`) is taken off; children may be numbered in their order, as
    nn.Sequential names them; a classifier or anything else beside is left alone.
    """
    state, network = read_state(path, WHERE), timm_model(name, "random", num_classes=0)
    wanted = tuple(key for key in network.state_dict() if not key.endswith("num_batches_tracked"))
    numbers = {child: str(number) for number, (child, _) in enumerate(network.named_children())}
    numbered = tuple(re.sub(r"^\w+", lambda child: numbers.get(child[0], ""), key) for key in wanted)
    places = [(names, key.removesuffix(names[0])) for names in {wanted, numbered} for key in state]
    fits = [place for place in places if all(place[1] + key in state for key in place[0])]
    if len(fits) != 1:
        held = "does not hold" if not fits else "holds more than once"
        missing = next((key for key in wanted if key not in state), wanted[0])
        what = f"'{path}' {held} the weights of '{name}', such as {missing}; its first are {list(state)[:3]}"
        remedy = "name the timm network that the file was trained as, and save the one network that is meant"
        raise UserError(what, where=WHERE, remedy=remedy)
    names, prefix = fits[0]
    found, stem = {own: state[prefix + key] for own, key in zip(wanted, names, strict=True)}, _stem(network)
    channels = found[stem].shape[1:2]
    if channels not in ((), network.state_dict()[stem].shape[1:2]):
        network = timm_model(name, "random", num_classes=0, in_chans=channels[0])
    try:
        network.load_state_dict(found, strict=False)  # all but counts of batches was found
    except RuntimeError as error:
        raise UserError(f"'{path}' does not fit '{name}': {' '.join(str(error).split())[:200]}", where=WHERE) from None
    return network


def _stem(network: nn.Module) -> str:
    """The name of the first weight that looks at pictures."""
    return next(key for key, value in network.state_dict().items() if value.ndim == 4)


def found_file(name: str) -> Path:
    """A file named by its path, or lying in $GANTK_WEIGHTS; UserError that says which file to put where."""
    path = Path(name).expanduser()
    found = path if path.is_file() else weights_file(name)
    if found is None:
        what = f"the file '{name}' of a feature network is absent: no such file, and none in $GANTK_WEIGHTS"
        remedy = f"put {path.name} into a folder and point GANTK_WEIGHTS to it, or give the file's path"
        raise UserError(what, where=WHERE, remedy=remedy)
    return found


def fingerprint(path: Path) -> str:
    """The first 8 digits of a file's SHA-256, so that a definition knows one file from another of its name."""
    with path.open("rb") as stream:
        return f"sha256:{hashlib.file_digest(stream, 'sha256').hexdigest()[:8]}"
