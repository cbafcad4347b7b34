"""A method on images of any size: straight through where they have the size it was trained at, else by tiles."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from gantk.inference.tiles import Tiling
from gantk.machine.runtime import Runtime
from gantk.method import Method
from gantk.recipe.tables import Model


def whole_images(
    network: Callable[[Tensor], Tensor], method: Method, model: Model, runtime: Runtime
) -> Callable[[Tensor], Tensor]:
    """What runs `network`, which uses layers of `method`, on (N, C, *size): (N, D, *size), float32, on the host.

    The recipe's [translate] table says how many images go at once, how much memory they may need, and whether norms
    take their statistics of the whole image or of each window.
    """
    table, dims, size = model.translate, model.data.dims, tuple(method.geometry.size)
    windowed = table.statistics == "window"

    def straight(images: Tensor) -> Tensor:
        with runtime.autocast():
            return network(images)

    tiling = Tiling(
        straight,
        method,
        window=size if windowed else None,
        statistics=table.statistics,
        overlap=table.overlap,
        batch=table.batch,
        memory=int(table.memory * 2**30),
        place=partial(runtime.place, dims=dims),
    )

    @torch.no_grad()
    def run(images: Tensor) -> Tensor:
        if tuple(images.shape[2:]) != size:
            return tiling(images)
        parts = images.split(table.batch)
        return torch.cat([straight(runtime.place(part, dims)).float().cpu() for part in parts])

    return run
