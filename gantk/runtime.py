"""The machine: device, precision, memory format, ranks, random numbers. The engine asks; nothing else does."""

from __future__ import annotations

import contextlib
import os
import platform
from collections.abc import Iterable
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn

from gantk.errors import UserError


@dataclass(frozen=True)
class Runtime:
    """Where and how one process computes. `rank` of `world` processes, started by torchrun or alone."""

    device: torch.device
    precision: str  # "bf16" or "fp32"
    channels_last: bool
    rank: int = 0
    world: int = 1

    @property
    def main(self) -> bool:
        """Whether this process writes files and prints."""
        return self.rank == 0

    def autocast(self):
        """bf16 autocast where the precision is bf16, else nothing."""
        if self.precision != "bf16":
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, dtype=torch.bfloat16)

    def place(self, thing: Tensor | nn.Module, dims: int) -> Tensor | nn.Module:
        """Move images or a network to the device, in the memory format in force."""
        if not self.channels_last:
            return thing.to(self.device)
        memory_format = torch.channels_last if dims == 2 else torch.channels_last_3d
        if isinstance(thing, Tensor) and thing.ndim != dims + 2:
            return thing.to(self.device)
        return thing.to(self.device, memory_format=memory_format)

    def seed(self, seed: int, step: int) -> None:
        """Random numbers of this step: a function of (seed, rank, step) alone, so that any step can be run again."""
        torch.manual_seed(_mix(seed, self.rank, step))

    def reduce(self, parameters: Iterable[nn.Parameter]) -> None:
        """Average the gradients over all ranks, in one flat message.

        Not DistributedDataParallel: several forwards before one backward through its wrapper fail where a module has
        buffers, and a phase's loss may run any network any number of times.
        """
        if self.world == 1:
            return
        parameters = list(parameters)
        missing = [parameter.grad is None for parameter in parameters]
        parts = [p.new_zeros(p.numel()) if p.grad is None else p.grad.reshape(-1) for p in parameters]
        present = parts[0].new_tensor([float(not lacks) for lacks in missing])
        flat = torch.cat([*parts, present])
        dist.all_reduce(flat)
        *parts, present = (flat / self.world).split([*map(len, parts), len(present)])
        # What took no part on any rank keeps no gradient: with one of 0 its optimizer would count a step.
        taken = (present > 0).tolist() if any(missing) else [True] * len(parameters)
        for parameter, part, takes in zip(parameters, parts, taken, strict=True):
            # in the parameter's own memory layout: fused optimizers walk both in storage order
            parameter.grad = torch.empty_like(parameter).copy_(part.view(parameter.shape)) if takes else None

    def broadcast(self, method: nn.Module) -> None:
        """Give every rank the first rank's weights."""
        if self.world > 1:
            for tensor in method.state_dict().values():
                dist.broadcast(tensor, 0)

    def any(self, flag: bool) -> bool:
        """Whether the flag is up on any rank."""
        if self.world == 1:
            return flag
        flags = torch.tensor(float(flag), device=self.device)
        dist.all_reduce(flags)
        return bool(flags)

    def wait(self) -> None:
        """Wait for all ranks."""
        if self.world > 1:
            dist.barrier()

    def synchronize(self) -> None:
        """Wait until the device has finished: before and after a timed stretch."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def start(device: str | None = None, precision: str = "auto", channels_last: bool = True) -> Runtime:
    """The runtime of this process; UserError where the device asked for is not there."""
    world, rank, local = (int(os.environ.get(key, default)) for key, default in _LAUNCH.items())
    chosen = _device(device, local)
    if world > 1 and not dist.is_initialized():
        dist.init_process_group("nccl" if chosen.type == "cuda" else "gloo")
    if chosen.type == "cuda":
        torch.cuda.set_device(chosen)
        torch.backends.cudnn.benchmark = True
        torch.set_float32_matmul_precision("high")
    if precision == "auto":
        precision = "bf16" if _good_at_bf16(chosen) else "fp32"
    return Runtime(chosen, precision, channels_last, rank, world)


_LAUNCH = {"WORLD_SIZE": 1, "RANK": 0, "LOCAL_RANK": 0}


def _device(name: str | None, local: int) -> torch.device:
    if name in (None, "auto"):
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UserError(f"'{name}' is not a device", where="--device", allowed="auto, cpu, cuda, cuda:0, mps") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UserError(
            "no CUDA device is available", where="--device", remedy="leave --device out, or use --device cpu"
        )
    if device.type == "cuda" and device.index is None:
        device = torch.device("cuda", local)
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise UserError(
            "no MPS device is available", where="--device", remedy="leave --device out, or use --device cpu"
        )
    return device


def _good_at_bf16(device: torch.device) -> bool:
    """Whether bf16 arithmetic is native: Ampere and later, or a CPU with AVX512-BF16 or AMX."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    if device.type == "cpu":
        return any(flag in _cpu_info() for flag in ("avx512_bf16", "amx_bf16"))
    return False


def _cpu_info() -> str:
    try:
        with open("/proc/cpuinfo") as file:
            return file.read(1 << 14)
    except OSError:
        return ""


def _cpu_name() -> str:
    names = [line.split(":", 1)[1].strip() for line in _cpu_info().splitlines() if line.startswith("model name")]
    return names[0] if names else platform.processor()


def describe(runtime: Runtime) -> dict:
    """The machine in words and numbers, for environment.json."""
    cuda = runtime.device.type == "cuda"
    return {
        "device": torch.cuda.get_device_name(runtime.device) if cuda else runtime.device.type,
        "precision": runtime.precision,
        "channels_last": runtime.channels_last,
        "ranks": runtime.world,
        "cpu": _cpu_name(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda if cuda else None,
        "platform": platform.platform(),
    }


def _mix(*numbers: int) -> int:
    """One 63-bit seed of several numbers (splitmix64), so that near numbers give unrelated seeds."""
    state = 0
    for number in numbers:
        state = (state + number + 0x9E3779B97F4A7C15) & 0xFFFFFFFFFFFFFFFF
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & 0xFFFFFFFFFFFFFFFF
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & 0xFFFFFFFFFFFFFFFF
        state ^= state >> 31
    return state >> 1
