"""A run's method and its weights: built as the recipe says, live or averaged weights loaded; needed to use a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gantk.machine.runtime import Runtime
from gantk.method import Geometry, Method, check_networks
from gantk.nets.kernels import use_kernels
from gantk.recipe.tables import Model
from gantk.runs import checkpoint


def build_method(
    model: Model, channels: dict[str, int], classes: tuple[str, ...], range: tuple[float, float], runtime: Runtime
) -> Method:
    """The recipe's method on the device, its weights drawn from train.seed; UserError where the size does not fit."""
    torch.manual_seed(model.train.seed)
    size = model.data.patch or model.data.size
    method = model.method(Geometry(model.data.dims, size, channels, classes, range))
    check_networks(method)
    method.batched = model.train.fast.batched_forward
    use_kernels(method, model.train.fast.kernels)
    return runtime.place(method, model.data.dims)


def load_method(
    model: Model, saved: Path, meta: dict[str, Any], range: tuple[float, float], runtime: Runtime
) -> Method:
    """The method as a checkpoint's images are made: averaged weights if any, evaluation mode, no gradients.

    `meta` is the checkpoint's meta.json, `range` the network intensities of black and white. UserError where the
    weights are damaged or another network's.
    """
    classes = tuple(meta.get("classes", ()))
    method = build_method(model, meta["channels"], classes, range, runtime)
    checkpoint.load_into(method, inference_state(saved), str(saved))
    return method.eval().requires_grad_(False)


def split_weights(weights: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """(live weights, averaged weights) of a checkpoint, by the method's own names."""
    live = {name[6:]: tensor for name, tensor in weights.items() if name.startswith("model.")}
    return live, {name[4:]: tensor for name, tensor in weights.items() if name.startswith("ema.")}


def inference_state(saved: Path) -> dict[str, Tensor]:
    """What a checkpoint's images are made with: averaged weights where there are any, live ones elsewhere."""
    live, average = split_weights(checkpoint.load_weights(saved))
    return live | average


def earlier_weights(saved: Path) -> list[dict[str, Tensor]]:
    """The `inference_state` of the run's other checkpoints."""
    folders = [checkpoint.path_of(saved.parent, step) for step in checkpoint.steps_saved(saved.parent)]
    return [inference_state(folder) for folder in folders if folder != saved]
