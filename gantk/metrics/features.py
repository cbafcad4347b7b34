"""Feature networks, in whose vectors sets of images are compared: random, Inception, timm, or a network from a file.

Weights are read as tensors alone. A TorchScript file is a program, which would run when it is opened, and is refused.
"""

from __future__ import annotations

import hashlib
import re
import zipfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gantk.errors import UserError
from gantk.nets.pretrained import timm_model, weights_file

WHERE = "evaluate.metrics"
PASS = 32  # images that go through a network at once
GRAY_SIDE = 128  # random features look at images no larger than this
SIDE = 224  # pixels, where neither the file nor the recipe says another size
WEIGHTS = (".pt", ".pth", ".ts", ".safetensors", ".bin", ".ckpt", ".tar")
INCEPTION_FILE = "pt_inception-2015-12-05-6726825d.pth"


class Features:
    """Vectors of images (N, C, *size), counted from black (0 to `data_range`): (N, d) float64 numpy.

    `features`: "random", a seeded network; "inception", the one that FID and KID were published with (pytorch-fid's
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
            raise UserError(what, where=WHERE, remedy="look at what made it, and leave it out")
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


def _network(features: str, options: dict[str, Any]) -> tuple[nn.Module, str, str]:
    """The network of that name, what a definition says of it, and what the name of a score ends with."""
    given = {name: value for name, value in options.items() if value is not None}
    suffix = Path(features).suffix
    if suffix in WEIGHTS:
        what = f'features = "{features}" is a file of weights, which does not say what network it belongs to'
        remedy = f'write features = "resnet50", weights = "{features}", with the timm name of its network'
        raise UserError(what, where=WHERE, remedy=remedy)
    taken = () if features in ("random", "inception") else ("mean", "std", "side")
    taken += ("weights",) if taken and suffix != ".onnx" else ()
    unused = next((name for name in given if name not in taken), None)
    if unused:
        what = f"the features '{features}' take no `{unused}`"
        raise UserError(what, where=WHERE, allowed=taken or "no options")
    if features == "random":
        return RandomConv(0), "random-conv-256-seed-0", "_random"
    if features == "inception":
        return Inception(), "inception-2048", ""
    make = onnx_backbone if suffix == ".onnx" else timm_backbone
    network, what, name = make(features, **{name: options[name] for name in taken})
    asked = "".join(f"-{key}={value}" for key, value in given.items() if key != "weights")
    return network, what + asked, f"_{name}"


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


def inception_network() -> nn.Module:
    """pytorch-fid's network with its own weights: $GANTK_WEIGHTS, torch's cache or the web; UserError otherwise."""
    from pytorch_fid import inception

    cached = Path(torch.hub.get_dir()) / "checkpoints" / INCEPTION_FILE
    path = weights_file(INCEPTION_FILE) or (cached if cached.is_file() else None)
    download = inception.load_state_dict_from_url
    if path is not None:  # the constructor knows no other way to be given weights
        inception.load_state_dict_from_url = lambda *_, **__: torch.load(path, map_location="cpu", weights_only=True)
    try:
        with torch.random.fork_rng(devices=[]):  # weights are drawn before they are replaced
            return inception.InceptionV3([inception.InceptionV3.BLOCK_INDEX_BY_DIM[2048]])
    except OSError as error:
        what = f"the weights of the feature network 'inception' are absent ({error})"
        remedy = f'put {INCEPTION_FILE} into a folder and point GANTK_WEIGHTS to it, or use features = "random"'
        raise UserError(what, where=WHERE, remedy=remedy) from None
    finally:
        inception.load_state_dict_from_url = download


class Inception(nn.Module):
    """pytorch-fid's Inception, last pooling: 2048 numbers of pictures (N, 3, H, W) from 0 to 1, at 299 pixels."""

    channels = 3

    def __init__(self) -> None:
        super().__init__()
        self.network = inception_network().to(memory_format=torch.channels_last)

    def forward(self, x: Tensor) -> Tensor:
        return self.network(x.contiguous(memory_format=torch.channels_last))[0]


class Backbone(nn.Module):
    """A network's pooled numbers (N, d) of pictures (N, channels, H, W) from 0 to 1, brought to its size and scale.

    The intensities stay floats throughout: nothing is rounded to 256 levels. A map of numbers (N, d, h, w) is averaged
    over its positions. UserError where the network does not take such pictures or gives neither.
    """

    def __init__(self, network: nn.Module, channels: int, size: Sequence[int], mean: Sequence[float], std: Any):
        super().__init__()
        self.network, self.channels, self.size = network, channels, tuple(size)
        self.register_buffer("mean", _per_channel("mean", mean, channels))
        self.register_buffer("std", _per_channel("std", std, channels))
        if not (self.std > 0).all():
            raise UserError(f"std = {list(std)} cannot be divided by", where=WHERE, allowed="numbers above 0")
        asked = f"pictures of {channels} channels and {self.size[0]} x {self.size[1]} pixels"
        try:
            with torch.no_grad():
                found = self(torch.zeros(1, channels, *self.size))
        except Exception as error:  # each network refuses in its own way
            what = f"the feature network does not take {asked}: {_first_line(error)}"
            raise UserError(what, where=WHERE, remedy="set `side` to the pixels that it takes") from None
        if found.ndim != 2 or len(found) != 1:
            what = f"the feature network answers {asked} with {list(found.shape)}"
            raise UserError(what, where=WHERE, allowed="numbers (N, d) or maps of numbers (N, d, h, w)")

    def forward(self, x: Tensor) -> Tensor:
        if tuple(x.shape[2:]) != self.size:
            x = F.interpolate(x, self.size, mode="bilinear", antialias=True, align_corners=False)
        found = self.network(((x - self.mean) / self.std).contiguous(memory_format=torch.channels_last))
        return found.mean((2, 3)) if found.ndim == 4 else found


class OnnxNetwork(nn.Module):
    """An ONNX file as a module, run by onnxruntime on the CPU: its first output for its only input (N, C, H, W)."""

    def __init__(self, path: Path):
        super().__init__()
        from gantk.exports.onnx_model import call, open_session

        self.session, self.call = open_session(path), call
        inputs = self.session.get_inputs()
        self.shape = list(inputs[0].shape) if inputs else []
        channels = self.shape[1] if len(self.shape) == 4 else None
        kinds = {"tensor(float)": np.float32, "tensor(float16)": np.float16}
        if len(inputs) != 1 or not isinstance(channels, int) or inputs[0].type not in kinds:
            found = ", ".join(f"{each.name} {each.type} {list(each.shape)}" for each in inputs) or "none"
            what = f"'{path}' has the inputs {found}"
            raise UserError(what, where=WHERE, allowed="one of floats (N, C, H, W) whose number of channels is fixed")
        self.channels, self.kind = channels, kinds[inputs[0].type]

    def forward(self, x: Tensor) -> Tensor:
        given = x.cpu().numpy().astype(self.kind)
        found = self.call(self.session, given, one_by_one=isinstance(self.shape[0], int))
        return torch.from_numpy(found.astype(np.float32)).to(x.device)


def onnx_backbone(
    name: str, mean: Sequence[float] | None, std: Sequence[float] | None, side: int | None
) -> tuple[Backbone, str, str]:
    """The network of an ONNX file, what a definition says of it, and its short name; UserError where it is absent."""
    path = found_file(name, "feature network")
    network = OnnxNetwork(path)
    fixed = all(isinstance(length, int) for length in network.shape[2:])
    size = tuple(network.shape[2:]) if fixed else (side or SIDE,) * 2
    if side is not None and size != (side, side):
        raise UserError(f"'{path}' takes {size[0]} x {size[1]} pixels, not side = {side}", where=WHERE)
    backbone = Backbone(network, network.channels, size, [0.0] if mean is None else mean, [1.0] if std is None else std)
    return backbone, f"{path.name}-{fingerprint(path)}", _short(path)


def timm_backbone(
    name: str, weights: str | None, mean: Sequence[float] | None, std: Sequence[float] | None, side: int | None
) -> tuple[Backbone, str, str]:
    """A timm network with its pretrained weights, or with those of a file; else as `onnx_backbone`."""
    path = None if weights is None else found_file(weights, "weights file")
    network = timm_model(name, "pretrained", num_classes=0) if path is None else timm_with(name, path)
    known = network.pretrained_cfg
    size = known.get("input_size", (3, SIDE, SIDE))[1:] if side is None else (side, side)
    mean = known.get("mean", (0.485, 0.456, 0.406)) if mean is None else mean
    std = known.get("std", (0.229, 0.224, 0.225)) if std is None else std
    backbone = Backbone(network.to(memory_format=torch.channels_last), _stem(network)[1].shape[1], size, mean, std)
    if path is None:
        return backbone, f"{name}-pretrained", name
    return backbone, f"{name}-{path.name}-{fingerprint(path)}", _short(path)


def timm_with(name: str, path: Path) -> nn.Module:
    """A timm network without its classifier, with a file's weights: for gray images where the file's are for those."""
    state = read_state(path)
    network = timm_model(name, "random", num_classes=0)
    key, stem = _stem(network)
    found = matched(state, network, path, name)
    if found[key].ndim == stem.ndim and found[key].shape[1] != stem.shape[1]:
        network = timm_model(name, "random", num_classes=0, in_chans=found[key].shape[1])
    wanted = network.state_dict()
    wrong = next((k for k, value in found.items() if value.shape != wanted[k].shape), None)
    if wrong:
        shapes = f"{list(found[wrong].shape)}, not {list(wanted[wrong].shape)}"
        raise UserError(f"'{path}' does not fit '{name}': {wrong} has the shape {shapes}", where=WHERE)
    network.load_state_dict(found, strict=False)  # all but counts of batches was found
    return network


def matched(state: Mapping[str, Tensor], network: nn.Module, path: Path, name: str) -> dict[str, Tensor]:
    """The network's own tensors out of a state dict as they come in the wild; UserError where one is missing.

    A prefix before all names (`module.`, `backbone.`, `model.encoder.`) is taken off, whatever it is; children may be
    numbered in their order, as nn.Sequential names them; a classifier or anything else beside is left alone.
    """
    wanted = [key for key in network.state_dict() if not key.endswith("num_batches_tracked")]
    numbers = {child: str(number) for number, (child, _) in enumerate(network.named_children())}
    numbered = [".".join([numbers.get(child, child), *rest]) for child, *rest in (key.split(".") for key in wanted)]
    counts = [(count, names, prefix) for names in (wanted, numbered) for prefix, count in _prefixes(state, names)]
    count, names, prefix = max(counts, key=lambda each: each[0], default=(0, wanted, ""))
    missing = [key for key in names if prefix + key not in state]
    if missing:
        has = f"it holds {', '.join(list(state)[:3])}, ..."
        what = f"'{path}' does not hold the weights of '{name}': {missing[0]} is missing ({len(missing)} in all); {has}"
        raise UserError(what, where=WHERE, remedy="name the timm network that the file was trained as")
    whole = [other for found, keys, other in counts if found == count and keys is names]
    if len(whole) > 1:
        what = f"'{path}' holds '{name}' more than once: under {', '.join(sorted(whole))}"
        raise UserError(what, where=WHERE, remedy="save the one that is meant to a file of its own")
    return {own: state[prefix + key] for own, key in zip(wanted, names, strict=True)}


def _prefixes(state: Mapping[str, Tensor], names: list[str]) -> list[tuple[str, int]]:
    """What stands before the names in a state dict, and before how many of them."""
    known, counts = set(names), Counter()
    for key in state:
        parts = key.split(".")
        for cut in range(len(parts)):
            if ".".join(parts[cut:]) in known:
                counts["".join(f"{part}." for part in parts[:cut])] += 1
    return list(counts.items())


def read_state(path: Path) -> dict[str, Tensor]:
    """The tensors of a file by name; code in it never runs. Of a training's checkpoint, its largest dict of tensors."""
    from safetensors.torch import load_file

    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            program = any(name.endswith("constants.pkl") or "/code/" in name for name in archive.namelist())
        if program:
            what = f"'{path}' is a TorchScript program, and a program from elsewhere is not run"
            raise UserError(what, where=WHERE, remedy="export it to ONNX, or save its state dict")
    try:
        loaded = load_file(path) if path.suffix == ".safetensors" else torch.load(path, "cpu", weights_only=True)
    except Exception as error:  # damaged bytes make the readers raise whatever they lead them to
        detail = "it is damaged, or a pickle that may run code" if "weights_only" in str(error) else _first_line(error)
        remedy = "copy it again; it must be a .safetensors file, or one of torch that holds tensors alone"
        raise UserError(f"'{path}' is not a readable file of weights: {detail}", where=WHERE, remedy=remedy) from None
    tensors = max(_dicts(loaded), key=len, default={})
    if not tensors:
        raise UserError(f"'{path}' holds no tensors by name", where=WHERE, remedy="save a state dict to it")
    return tensors


def _dicts(loaded: Any) -> Iterator[dict[str, Tensor]]:
    """The tensors of every dict inside what was loaded."""
    if isinstance(loaded, Mapping):
        yield {key: value for key, value in loaded.items() if isinstance(key, str) and isinstance(value, Tensor)}
        for value in loaded.values():
            yield from _dicts(value)


def found_file(name: str, what: str) -> Path:
    """A file named by its path, or lying in $GANTK_WEIGHTS; UserError that says which file to put where."""
    path = Path(name).expanduser()
    found = path if path.is_file() else weights_file(name) or weights_file(f"{name}.pt")
    if found is None:
        what = f"the {what} '{name}' is absent: no such file, and none in $GANTK_WEIGHTS"
        remedy = f"put {path.name} into a folder and point GANTK_WEIGHTS to it, or give the file's path"
        raise UserError(what, where=WHERE, remedy=remedy)
    return found


def fingerprint(path: Path) -> str:
    """The first 8 digits of a file's SHA-256, so that a definition knows one file from another of its name."""
    with path.open("rb") as stream:
        return f"sha256:{hashlib.file_digest(stream, 'sha256').hexdigest()[:8]}"


def _stem(network: nn.Module) -> tuple[str, Tensor]:
    """The first weight that looks at pictures."""
    return next((key, value) for key, value in network.state_dict().items() if value.ndim == 4)


def _per_channel(name: str, values: Sequence[float], channels: int) -> Tensor:
    """(channels, 1, 1). One number serves all channels; for one channel several are averaged."""
    found = torch.tensor([float(value) for value in values])
    if channels == 1 and len(found) == 3:
        found = found.mean(0, keepdim=True)
    if len(found) not in (1, channels):
        allowed = f"1 or {channels}, as many as the network has channels"
        raise UserError(f"{name} has {len(found)} numbers", where=WHERE, allowed=allowed)
    return found.expand(channels)[:, None, None].clone()


def _short(path: Path) -> str:
    return re.sub(r"[^\w.-]+", "-", path.stem)


def _first_line(error: Exception) -> str:
    return next((line.strip()[:200] for line in str(error).splitlines() if line.strip()), type(error).__name__)
