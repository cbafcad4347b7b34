"""Methods trained by several ranks and by one process: run in processes of their own by `trained`.

What a rank draws at random is its own, so a step of N ranks is that of one process only where nothing is drawn, or the
draws are the same. Here they are: `SharedDraws` gives each rank its share of what one process draws for all images.
"""

from __future__ import annotations

import os
import socket
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as processes
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.overrides import TorchFunctionMode

from gantk.machine.runtime import Runtime
from gantk.method import Batch, Geometry, Method, Stage
from gantk.testing.small import random_images, small_part, small_size, train_table
from gantk.training.engine import Engine
from gantk.training.optim import sgd

STEPS, IMAGES = 2, 4  # images of all ranks together; later, kinks of ReLU and L1 make much of a rounding error
DRAWS = (torch.rand, torch.randn, torch.rand_like, torch.randn_like)


class SharedDraws(TorchFunctionMode):
    """Random tensors with a row for each image are this rank's rows of the tensor that one process would draw.

    So are those with a row for each image of up to `PASSES` batches, which go through a network together.
    """

    PASSES = 3

    def __init__(self, rank: int, world: int, batch: int):
        super().__init__()
        self.rank, self.world, self.batch = rank, world, batch

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func not in DRAWS or self.world == 1 or kwargs.get("generator") is not None:
            return func(*args, **kwargs)
        like = isinstance(args[0], Tensor)
        shape = args[0].shape if like else torch.Size(args[0] if isinstance(args[0], (tuple, list)) else args)
        passes, odd = divmod(shape[0], self.batch) if shape else (0, 0)
        if odd or not 1 <= passes <= self.PASSES:
            return func(*args, **kwargs)
        whole = (self.world * shape[0], *shape[1:])
        drawn = func(args[0].new_empty(whole), **kwargs) if like else func(*whole, **kwargs)
        return drawn.unflatten(0, (passes, self.world, self.batch))[:, self.rank].flatten(0, 1)


class OneSeed(Runtime):
    """Every rank has the same random numbers."""

    def seed(self, seed: int, step: int) -> None:
        torch.manual_seed(1000 * seed + step)


class Flat(nn.Module):
    """In the place of a deviation over the batch: one channel of 0."""

    def forward(self, x: Tensor, *about: Any) -> Tensor:
        return torch.cat([x, torch.zeros_like(x[:, :1])], 1)


def keep_apart(module: nn.Module) -> None:
    """Put layers that keep the images of a batch apart in the place of those that mix them."""
    for name, child in module.named_children():
        if isinstance(child, _BatchNorm):
            setattr(module, name, nn.GroupNorm(child.num_features, child.num_features))
        elif getattr(child, "mixes_batch", False):
            setattr(module, name, Flat())
        else:
            keep_apart(child)


def build(case: dict[str, Any]) -> Method:
    """A small method, the same in every process."""
    torch.manual_seed(0)
    part = small_part("method", case["method"], case.get("options", {}), pool=0)
    dims, classes = case.get("dims", 2), ("healthy", "tumour") if case.get("options", {}).get("conditional") else ()
    method = part(Geometry(dims, small_size(dims), dict.fromkeys(part.target.reads, 1), classes))
    keep_apart(method)
    return method


def train(case: dict[str, Any], rank: int, world: int) -> dict[str, Tensor]:
    """The weights, and their moving average, after some steps on this rank's images."""
    method, count = build(case), IMAGES // world
    runtime = OneSeed(torch.device("cpu"), "fp32", True, rank, world)
    runtime.place(method, method.geometry.dims)
    optimizer = partial(sgd, lr=case.get("lr", 0.01))
    engine = Engine(method, train_table(optimizer, microbatch=case.get("microbatch")), STEPS, runtime)

    def batch_at(step: int, stage: Stage) -> Batch:
        own = slice(rank * count, (rank + 1) * count)
        batch = Batch()
        for k, name in enumerate(method.reads):
            batch[name] = random_images(IMAGES, 1, stage.size, seed=100 * step + k)[own]
        if method.geometry.classes:
            batch["label"] = (torch.arange(IMAGES) % 2)[own]
        return batch

    with SharedDraws(rank, world, case.get("microbatch") or count):
        for _ in engine.fit(batch_at):
            pass
    weights = {name: parameter.detach().clone() for name, parameter in method.named_parameters()}
    average = engine.ema.state_dict() if engine.ema else {}
    return weights | {f"average of {name}": average[name].clone() for name in weights if name in average}


def trained(cases: dict[str, dict], world: int, folder: Path) -> dict[str, list[dict]]:
    """case -> for each rank its weights: all cases in one group of processes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    processes.spawn(_train_all, (cases, world, port, str(folder)), world)
    found = [torch.load(folder / f"{rank}.pt") for rank in range(world)]
    return {case: [each[case] for each in found] for case in cases}


def _train_all(rank: int, cases: dict[str, dict], world: int, port: int, folder: str) -> None:
    torch.set_num_threads(1)
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    dist.init_process_group("gloo", rank=rank, world_size=world)
    found = {name: train(case, rank, world) for name, case in cases.items()}
    torch.save(found, f"{folder}/{rank}.pt")
    dist.destroy_process_group()
