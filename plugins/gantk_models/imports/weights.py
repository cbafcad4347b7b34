"""The weights of a reference network under the names of our network of the same layers."""

from __future__ import annotations

import re
from pathlib import Path

import torch.nn.functional as F
from torch import Tensor, nn

from gantk.errors import UserError
from gantk.nets.blocks import CONV_TRANSPOSE, InstanceNorm
from gantk.nets.pretrained import read_state

WRAPPERS = re.compile(r"^(?:module\.|_orig_mod\.)+")  # of DataParallel and torch.compile
FILTER = "filt"  # the constant kernel of an antialiased layer
STATISTICS = {"running_mean", "running_var", "num_batches_tracked"}
TRANSPOSED = tuple(CONV_TRANSPOSE.values())


class Weights:
    """The layers of a reference network, in the order in which it runs them."""

    def __init__(self, path: Path):
        """Read a file of named tensors, without running code in it; UserError where it is none."""
        self.path = path
        layers = {}
        for key, tensor in read_state(path, "FOLDER").items():
            name, _, short = WRAPPERS.sub("", key).rpartition(".")
            layers.setdefault(name, {})[short] = tensor

        self.filters = sum(FILTER in tensors for tensors in layers.values())
        # statistics without weights: instance norm before PyTorch 0.4, which no version uses
        self.layers = [
            (name, tensors)
            for name, tensors in layers.items()
            if FILTER not in tensors and not tensors.keys() <= STATISTICS
        ]

    def skips_last(self) -> None:
        """Order the inputs of a U-Net's decoder as ours: its own map before the skip, where the
        file has the skip first.
        """
        convolutions = [
            tensors
            for _, tensors in self.layers
            if "weight" in tensors and tensors["weight"].ndim == 4
        ]
        for tensors in convolutions[len(convolutions) // 2 + 1 :]:
            weight = tensors["weight"]
            tensors["weight"] = weight.roll(len(weight) // 2, 0)

    def average_colours(self) -> None:
        """Make a network of one channel: exact for its input, a gray picture in each of three
        channels; its output is the mean of three, before the last activation.
        """
        (_, first), *_, (_, last) = self.layers
        first["weight"] = first["weight"].sum(1, keepdim=True)
        axis = list(last["weight"].shape[:2]).index(last["bias"].numel())
        last["weight"] = last["weight"].mean(axis, keepdim=True)
        last["bias"] = last["bias"].mean(0, keepdim=True)

    def fit(self, network: nn.Module, options: str, filters: int = 0) -> dict[str, Tensor]:
        """The weights under the names of `network`, which runs the same layers.

        Args:
            network: ours, as the options describe it.
            options: the options that decide its shapes, for a message.
            filters: the number of antialiased layers.

        Raises:
            UserError: a layer of the file is not that of the network. The message has its name and
                shape, and what was expected.
        """
        if self.filters != filters:
            raise self._unfit(
                f"it has {self.filters} antialiased layers", f"a network of {filters}", options
            )

        fitted = {}
        drops_offsets = any(
            isinstance(module, InstanceNorm) and not module.affine for module in network.modules()
        )
        ours = [
            (name, module)
            for name, module in network.named_modules()
            if next(module.parameters(recurse=False), None) is not None
        ]
        for (key, tensors), (name, module) in zip(self.layers, ours, strict=False):
            expected = _shapes(module, tensors)
            found = _shapes_of(tensors)
            if isinstance(module, InstanceNorm):
                found = {short: shape for short, shape in found.items() if short in expected}
            elif drops_offsets and "bias" not in expected:
                found.pop("bias", None)  # the norm would subtract it again
            if found != expected:
                shapes = _text(_shapes_of(tensors))
                raise self._unfit(f"layer '{key}' has {shapes}", _text(expected), options)

            for short in expected:
                fitted[f"{name}.{short}"] = _as_ours(tensors[short], module)

        if len(self.layers) != len(ours):
            raise self._unfit(
                f"it has {len(self.layers)} layers", f"a network of {len(ours)}", options
            )

        return fitted

    def _unfit(self, found: str, expected: str, options: str) -> UserError:
        return UserError(
            f"'{self.path.name}' does not fit its options: {found}, but {expected} is expected for"
            f" {options}",
            where=str(self.path),
            remedy="give the options that it was trained with, such as --set ngf=32",
        )


def _shapes_of(tensors: dict[str, Tensor]) -> dict[str, list[int]]:
    names = sorted(tensors, reverse=True)  # the weight first
    return {short: list(tensors[short].shape) for short in names}


def _shapes(module: nn.Module, tensors: dict[str, Tensor]) -> dict[str, list[int]]:
    """The shapes of a file's layer for one of ours: a transposed convolution has 3x3 weights there
    in a ResNet.
    """
    own = _shapes_of(module.state_dict())
    if isinstance(module, TRANSPOSED) and _shapes_of(tensors).get("weight", [])[2:] == [3, 3]:
        own["weight"][2:] = [3, 3]
    return own


def _as_ours(tensor: Tensor, module: nn.Module) -> Tensor:
    """A tensor in float32; a transposed 3x3 convolution as the 4x4 one that computes the same."""
    if isinstance(module, TRANSPOSED) and list(tensor.shape[2:]) == [3, 3]:
        tensor = F.pad(tensor, (0, 1, 0, 1))
    return tensor.float() if tensor.is_floating_point() else tensor


def _text(shapes: dict[str, list[int]]) -> str:
    return ", ".join(f"{name} {shape}" for name, shape in shapes.items())
