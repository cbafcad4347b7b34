"""Loads frozen networks and returns their layers' features: a segmenter's run, or a feature network
of the metrics.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

from gantk.errors import UserError, did_you_mean, one_line
from gantk.machine.runtime import Runtime
from gantk.metrics.sets import Features
from gantk.plugin.spec import Part
from gantk.runs.folder import RunFolder
from gantk.runs.trained import load_method

OUTPUT = "output"  # name for a network's final output


class Maps(nn.Module):
    """Features of a frozen network's layers for images of `channels` and `size`; `pictures`: scale
    images to 0 to 1.
    """

    def __init__(
        self,
        network: nn.Module,
        name: str,
        layers: tuple[str, ...],
        channels: int,
        size,
        pictures: bool,
    ):
        super().__init__()
        self.network = network.eval().requires_grad_(False)
        self.name = name
        self.channels = channels
        self.dims = len(size)
        self.pictures = pictures
        self.seen = {}
        inner = getattr(network, "network", network)  # wrapped by the metrics' resizing and scaling
        names = [layer for layer, _ in inner.named_modules() if layer]
        # timm's; else those of a U-Net
        levels = [one["module"] for one in getattr(inner, "feature_info", ())]
        levels += [f"encoder.{level}" for level in range(len(getattr(inner, "encoder", ())))]
        self.layers = layers or levels or [OUTPUT]
        for layer in self.layers:
            if layer not in (OUTPUT, *names):
                allowed = [
                    OUTPUT,
                    *(name for name in names if "." not in name),
                    "parts of these, such as encoder.0",
                ]
                what = f"the network '{name}' has no layer '{layer}'"
                remedy = did_you_mean(layer, names)
                raise UserError(what, where="layers", allowed=allowed, remedy=remedy)

            if layer != OUTPUT:
                keep = lambda _, given, found, layer=layer: self.seen.update({layer: found})  # noqa: E731
                inner.get_submodule(layer).register_forward_hook(keep)

        try:
            with torch.enable_grad():
                image = torch.zeros(1, channels, *size, requires_grad=True)
                torch.cat(self(image, 0.0, 1.0), 1).sum().backward()
        except RuntimeError as error:  # networks that run outside torch have no gradients
            what = f"the network '{name}' has no gradients ({one_line(error, 80)})"
            raise UserError(what, remedy="use a timm network or a segmenter's run") from None

    def forward(self, images: Tensor, black: float, data_range: float) -> list[Tensor]:
        """Images (N, C, *size) in network intensities to features (N, d) per layer; d spans all
        slices of volumes.
        """
        self.network.to(images.device)
        count = len(images)
        images = images.float()
        if images.ndim - 2 == self.dims + 1:
            images = images.transpose(1, 2).flatten(0, 1)
        if self.pictures:
            images = (images - black) / data_range
        # treat each channel as a gray picture
        if self.pictures and images.shape[1] != self.channels:
            images = images.flatten(0, 1)[:, None].expand(-1, self.channels, *images.shape[2:])

        if images.shape[1] != self.channels or images.ndim - 2 != self.dims:
            what = (
                f"the network '{self.name}' takes {self.dims}-D images of {self.channels} channels"
            )
            what += f", but these are {images.ndim - 2}-D images of {images.shape[1]} channels"
            raise UserError(
                what, where="network", remedy="use a network that was trained on such images"
            )

        if hasattr(self.network, "check_size"):
            self.network.check_size(tuple(images.shape[2:]))

        self.seen[OUTPUT] = self.network(images)
        found = [self.seen[layer].reshape(count, -1) for layer in self.layers]
        self.seen.clear()
        return found

    def sha256(self) -> str:
        """The SHA-256 of all weights, in the order of the state dict."""
        tensors = (tensor.cpu().contiguous() for tensor in self.network.state_dict().values())
        return hashlib.sha256(b"".join(tensor.numpy().tobytes() for tensor in tensors)).hexdigest()


@lru_cache(maxsize=8)
def open_network(network: str, layers: tuple[str, ...]) -> Maps:
    """Load the network that a recipe names, see `FeatureLoss`; cached until the next training
    begins.
    """
    with torch.random.fork_rng(devices=[]), torch.inference_mode(False):
        if not is_run(network):
            found = Features(network, 1.0, 2).network
            return Maps(found, network, layers, found.channels, (64, 64), True)

        run = RunFolder.open(network)
        model = run.recipe().check()
        saved = run.inference_checkpoint()
        if model.method.name != "segmenter":
            what = (
                f"'{network}' is a run of the method '{model.method.name}', but the loss needs a"
                " run of the method 'segmenter'"
            )
            raise UserError(
                what, where="network", remedy="train one with: gantk run segmenter --data FOLDER"
            )

        here = Runtime(torch.device("cpu"), "fp32", channels_last=True)
        method = load_method(model, saved, (-1.0, 1.0), here)

    shown = method.geometry
    return Maps(method.network, network, layers, shown.channels["image"], shown.size, False)


def is_run(network: str) -> bool:
    """Whether this is the path of a folder, which need not exist."""
    return os.path.isdir(network) or (os.sep in network and not os.path.isfile(network))


def pin(value: object, where: str) -> None:
    """Record path and SHA-256 of each `feature` loss's network in a method's options; UserError if
    they differ.
    """
    if isinstance(value, Part) and (value.kind, value.name) == ("loss", "feature"):
        table = value.options
        name = value.options["network"]
        table["network"] = os.path.abspath(name) if is_run(name) else name
        found = open_network(table["network"], table["layers"]).sha256()
        if table["sha256"] not in ("", found):
            what = (
                f"'{name}' has other weights than at the start of this training: their SHA-256 is"
                f" {found[:12]}, not "
            )
            what += f"{table['sha256'][:12]}"
            raise UserError(
                what,
                where=f"{where}.sha256",
                remedy='restore the weights, or start a new run with sha256 = ""',
            )

        table["sha256"] = found

    inner = value.options if isinstance(value, Part) else value
    items: Iterable[tuple[Any, Any]] = ()
    if isinstance(inner, dict):
        items = inner.items()
    elif isinstance(inner, list):
        items = enumerate(inner)
    for key, each in items:
        pin(each, where if isinstance(inner, list) else f"{where}.{key}")
