"""Feature networks that come as files: an ONNX network, or a timm network with weights that somebody else trained.

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
SIDE = 224  # pixels, where neither the file nor the recipe says another size


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
        self._try()

    def forward(self, x: Tensor) -> Tensor:
        if tuple(x.shape[2:]) != self.size:
            x = F.interpolate(x, self.size, mode="bilinear", antialias=True, align_corners=False)
        x = ((x - self.mean) / self.std).contiguous(memory_format=torch.channels_last)
        found = self.network(x)
        return found.mean((2, 3)) if found.ndim == 4 else found

    def _try(self) -> None:
        asked = f"pictures of {self.channels} channels and {self.size[0]} x {self.size[1]} pixels"
        try:
            with torch.no_grad():
                found = self(torch.zeros(1, self.channels, *self.size))
        except Exception as error:  # each network refuses in its own way
            what = f"the feature network does not take {asked}: {_first_line(error)}"
            raise UserError(what, where=WHERE, remedy="set `side` to the pixels that it takes") from None
        if found.ndim != 2 or len(found) != 1:
            what = f"the feature network answers {asked} with {list(found.shape)}"
            raise UserError(what, where=WHERE, allowed="numbers (N, d) or maps of numbers (N, d, h, w)")


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

    @property
    def size(self) -> tuple[int, int] | None:
        """Height and width, where the file fixes them."""
        return tuple(self.shape[2:]) if all(isinstance(side, int) for side in self.shape[2:]) else None

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
    size = network.size or (side or SIDE,) * 2
    if side is not None and tuple(size) != (side, side):
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
    wrong = [k for k, value in found.items() if value.shape != wanted[k].shape]
    if wrong:
        shapes = f"{list(found[wrong[0]].shape)}, not {list(wanted[wrong[0]].shape)}"
        raise UserError(f"'{path}' does not fit '{name}': {wrong[0]} has the shape {shapes}", where=WHERE)
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


def read_state(path: Path) -> dict[str, Tensor]:
    """The tensors of a file by name; code in it never runs. Of a training's checkpoint, its largest dict of tensors."""
    from safetensors.torch import load_file

    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as held:
            program = any(name.endswith("constants.pkl") or "/code/" in name for name in held.namelist())
        if program:
            what = f"'{path}' is a TorchScript program, and a program from elsewhere is not run"
            raise UserError(what, where=WHERE, remedy="export it to ONNX, or save its state dict")
    try:
        held = load_file(path) if path.suffix == ".safetensors" else torch.load(path, "cpu", weights_only=True)
    except Exception as error:  # damaged bytes make the readers raise whatever they lead them to
        detail = "it is damaged, or a pickle that may run code" if "weights_only" in str(error) else _first_line(error)
        remedy = "copy it again; it must be a .safetensors file, or one of torch that holds tensors alone"
        raise UserError(f"'{path}' is not a readable file of weights: {detail}", where=WHERE, remedy=remedy) from None
    tensors = max(_dicts(held), key=len, default={})
    if not tensors:
        raise UserError(f"'{path}' holds no tensors by name", where=WHERE, remedy="save a state dict to it")
    return tensors


def found_file(name: str, what: str) -> Path:
    """A file named by its path, or lying in $GANTK_WEIGHTS; UserError that says which file to put where."""
    path = Path(name).expanduser()
    found = path if path.is_file() else weights_file(name) or weights_file(f"{name}.pt")
    if found is None:
        remedy = f"put {path.name} into a folder and point GANTK_WEIGHTS to it, or give the file's path"
        raise UserError(
            f"the {what} '{name}' is absent: no such file, and none in $GANTK_WEIGHTS", where=WHERE, remedy=remedy
        )
    return found


def fingerprint(path: Path) -> str:
    """The first 8 digits of a file's SHA-256, so that a definition knows one file from another of its name."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(2**20):
            digest.update(chunk)
    return f"sha256:{digest.hexdigest()[:8]}"


def _prefixes(state: Mapping[str, Tensor], names: list[str]) -> list[tuple[str, int]]:
    """What stands before the names in a state dict, and before how many of them."""
    counts: Counter[str] = Counter()
    known = set(names)
    for key in state:
        parts = key.split(".")
        for cut in range(len(parts)):
            if ".".join(parts[cut:]) in known:
                counts["".join(f"{part}." for part in parts[:cut])] += 1
    return list(counts.items())


def _stem(network: nn.Module) -> tuple[str, Tensor]:
    """The first weight that looks at pictures."""
    return next((key, value) for key, value in network.state_dict().items() if value.ndim == 4)


def _dicts(held: Any) -> Iterator[dict[str, Tensor]]:
    if isinstance(held, Mapping):
        yield {key: value for key, value in held.items() if isinstance(key, str) and isinstance(value, Tensor)}
        for value in held.values():
            yield from _dicts(value)


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
