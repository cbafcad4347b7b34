"""Networks of timm and ONNX files as features: resizes and scales pictures, and averages feature
maps.

Weights are read as tensors only. TorchScript files are refused: they are programs, which run when
opened.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gantk import registry, timm_model
from gantk.errors import UserError, one_line, reading_file
from gantk.files import sha256_of
from gantk.nets.pretrained import read_state, weights_file
from gantk.plugin.spec import Side
from gantk.runs.results import Results

WHERE = "evaluate.metrics"
DEFAULT_SIDE = 224  # pixels, unless the file or the recipe states another size
WEIGHTS = (".pt", ".pth", ".ts", ".safetensors", ".bin", ".ckpt", ".tar")
# ImageNet's, where timm states none
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)


class Backbone(nn.Module):
    """Resizes and scales pictures (N, channels, H, W) from 0 to 1, and returns a network's pooled
    features (N, d).

    Intensities stay floats and are not rounded to 256 levels. Feature maps (N, d, h, w) are
    averaged over positions. `file` is the file of the network or its weights. UserError where the
    network does not accept such pictures, or returns neither vectors nor maps.
    """

    def __init__(
        self,
        network: nn.Module,
        channels: int,
        size: Sequence[int],
        mean: Sequence[float],
        std: Sequence[float],
        name: str,
        file: Path | None = None,
    ):
        super().__init__()
        self.network = network
        self.channels = channels
        self.size = tuple(size)
        self.suffix = "_" + re.sub(r"[^\w.-]+", "-", file.stem if file else name)
        self.what = "-".join(
            [name] * bool(name) + ([file.name, fingerprint(file)] if file else ["pretrained"])
        )
        for scale, values in (("mean", mean), ("std", std)):
            found = torch.tensor([float(value) for value in values])
            if channels == 1 and len(found) == 3:  # gray uses the mean of the colours
                found = found.mean(0, keepdim=True)

            if len(found) not in (1, channels) or (scale == "std" and not (found > 0).all()):
                allowed = f"1 or {channels} numbers (one per channel of the network); std above 0"
                raise UserError(
                    f"{scale} = {list(values)} is not valid", where=WHERE, allowed=allowed
                )

            self.register_buffer(scale, found.expand(channels)[:, None, None].clone())

        try:
            with torch.no_grad():
                (_,) = self(torch.zeros(1, channels, *self.size)).flatten(1)
        except Exception as error:  # networks raise any kind of exception
            pictures = f"pictures of {channels} channels and {size[0]} x {size[1]} pixels"
            what = (
                f"the feature network does not accept {pictures}, or returns no vectors:"
                f" {one_line(error)}"
            )
            raise UserError(
                what, where=WHERE, remedy="set `side` to the network's size in pixels"
            ) from None

    def forward(self, x: Tensor) -> Tensor:
        if tuple(x.shape[2:]) != self.size:
            x = F.interpolate(x, self.size, mode="bilinear", antialias=True, align_corners=False)
        features = self.network(
            ((x - self.mean) / self.std).contiguous(memory_format=torch.channels_last)
        )
        return features.mean((2, 3)) if features.ndim == 4 else features


class OnnxNetwork(nn.Module):
    """An ONNX file as a module, run by the exporter "onnx"; returns the first output for the one
    input (N, C, H, W).
    """

    def __init__(self, path: Path):
        super().__init__()
        (self.shape, *more), self.run = registry().get("exporter", "onnx").load()().network(path)
        if more or len(self.shape) != 4 or not isinstance(self.shape[1], int):
            what = f"'{path}' has {1 + len(more)} inputs, the first of shape {self.shape}"
            raise UserError(
                what,
                where=WHERE,
                allowed="one float input (N, C, H, W) with a fixed number of channels",
            )

    def forward(self, x: Tensor) -> Tensor:
        return torch.from_numpy(self.run(x.cpu().numpy()).astype(np.float32)).to(x.device)


def onnx_backbone(
    name: str,
    *,
    mean: list[float] = [0.0],  # subtracted from intensities 0 to 1
    std: list[float] = [1.0],  # divides the result
    # resize images to this side in pixels; None: the file's size, or 224
    side: Side | None = None,
) -> Backbone:
    """The network of an ONNX file as features; by default pictures are neither shifted nor scaled."""
    path = found_file(name)
    network = OnnxNetwork(path)
    fixed = all(isinstance(length, int) for length in network.shape[2:])
    size = tuple(network.shape[2:]) if fixed else (side or DEFAULT_SIDE,) * 2
    if side is not None and size != (side, side):
        raise UserError(
            f"'{path}' takes images of {size[0]} x {size[1]} pixels, not side = {side}",
            where=WHERE,
        )

    return Backbone(network, network.shape[1], size, mean, std, "", path)


def timm_backbone(
    name: str,
    *,
    weights: str | None = None,  # file with weights; None: timm's pretrained weights
    # subtracted from intensities 0 to 1; None: timm's value for the network
    mean: list[float] | None = None,
    std: list[float] | None = None,  # divides the result; None: timm's value for the network
    side: Side | None = None,  # resize images to this side in pixels; None: the network's size
) -> Backbone:
    """A network of timm as features, with its pretrained weights or with those of a file."""
    if Path(name).suffix in WEIGHTS:
        what = f'features = "{name}" is a file of weights, which does not state its network'
        remedy = (
            f'set features to the timm name of the network: features = "resnet50",'
            f' weights = "{name}"'
        )
        raise UserError(what, where=WHERE, remedy=remedy)

    path = None if weights is None else found_file(weights)
    if path is None:
        network = timm_model(name, "pretrained", num_classes=0)
    else:
        network = timm_with(name, path)

    config = network.pretrained_cfg
    channels = network.state_dict()[_stem(network)].shape[1]
    size = (
        config.get("input_size", (3, DEFAULT_SIDE, DEFAULT_SIDE))[1:]
        if side is None
        else (side, side)
    )
    scale = mean or config.get("mean", MEAN), std or config.get("std", STD)
    return Backbone(
        network.to(memory_format=torch.channels_last), channels, size, *scale, name, path
    )


def timm_with(name: str, path: Path) -> nn.Module:
    """A timm network without its classifier, with a file's weights; for gray images if the file's
    first layer is.

    Removes a prefix of all names (`module.`, `backbone.`); children may be numbered in order, as in
    nn.Sequential; further weights in the file, such as a classifier's, are ignored.
    """
    state = read_state(path, WHERE)
    network = timm_model(name, "random", num_classes=0)
    own_names = tuple(
        key for key in network.state_dict() if not key.endswith("num_batches_tracked")
    )
    numbers = {child: str(number) for number, (child, _) in enumerate(network.named_children())}
    numbered = tuple(
        re.sub(r"^\w+", lambda child: numbers.get(child[0], ""), key) for key in own_names
    )
    places = [
        (names, key.removesuffix(names[0])) for names in {own_names, numbered} for key in state
    ]
    fits = [place for place in places if all(place[1] + key in state for key in place[0])]
    if len(fits) != 1:
        held = "does not contain" if not fits else "contains more than once"
        missing = next((key for key in own_names if key not in state), own_names[0])
        what = (
            f"'{path}' {held} the weights of '{name}', such as {missing}; its first are"
            f" {list(state)[:3]}"
        )
        remedy = (
            "name the timm network that the file was trained with, and store only this network in"
            " the file"
        )
        raise UserError(what, where=WHERE, remedy=remedy)

    names, prefix = fits[0]
    weights = {own: state[prefix + key] for own, key in zip(own_names, names, strict=True)}
    stem = _stem(network)
    channels = weights[stem].shape[1:2]
    if channels not in ((), network.state_dict()[stem].shape[1:2]):
        network = timm_model(name, "random", num_classes=0, in_chans=channels[0])

    with reading_file(path, f"the weights of '{name}'", where=WHERE):
        network.load_state_dict(weights, strict=False)  # only batch counts are missing

    return network


def _stem(network: nn.Module) -> str:
    """The name of the first convolution's weight."""
    return next(key for key, value in network.state_dict().items() if value.ndim == 4)


def found_file(name: str) -> Path:
    """Find a file by its path, or by its name in $GANTK_WEIGHTS; UserError that says which file to
    put where.
    """
    path = Path(name).expanduser()
    found = path if path.is_file() else weights_file(name)
    if found is None:
        what = (
            f"the file '{name}' of a feature network does not exist, nor is it in the folder"
            " $GANTK_WEIGHTS"
        )
        remedy = (
            f"put {path.name} into a folder and set GANTK_WEIGHTS to it, or set the file's path"
        )
        raise UserError(what, where=WHERE, remedy=remedy)

    return found


def fingerprint(path: Path) -> str:
    """The first 8 digits of a file's SHA-256: distinguishes files of one name in a metric's
    definition.
    """
    return f"sha256:{sha256_of(path)[:8]}"


def warn_of_radimagenet_alone(results: Results) -> None:
    """Add a warning if features of RadImageNet are used without Inception's: unlike ImageNet's,
    their ranking of generators disagrees with people's (Woodland et al., MICCAI 2024).
    """
    scores = [score for own in results.metrics.values() for score in own.values()]
    definitions = [score.definition.lower() for score in scores]
    learned = [definition for definition in definitions if "features=" in definition]
    radimagenet = any("radimagenet" in definition for definition in learned)
    inception = any("inception" in definition for definition in learned)
    if radimagenet and not inception:
        line = (
            "warning  scores with RadImageNet features often disagree with people's judgement:"
            ' also use { name = "kid", features = "inception" }'
        )
        results.lines.append(line)
