"""The device to compute on: whether it works, its precision and driver, and how a CPU keeps freed memory."""

from __future__ import annotations

import ctypes
import os
import platform
import re
from pathlib import Path

import torch

from gantk.errors import UserError

WHERE, CPU = "--device", "use --device cpu"
LOOK = f"see what `nvidia-smi` says; update the driver, install a torch that fits it, take another card, or {CPU}"
DRIVER = Path("/proc/driver/nvidia/version")  # where Linux says which one is loaded
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_MMAP_MAX = -1, -3, -4  # of malloc.h
LARGEST = 32 << 20  # bytes: where glibc's own threshold for blocks of their own ends up in a training (mallopt(3))


def cuda_trouble() -> str | None:
    """Why this torch could use a card and does not; None where there simply is none.

    Asked where `torch.cuda.is_available()` has said no.
    """
    if torch.version.cuda is None:
        return None
    try:
        torch.cuda.init()
    except (RuntimeError, AssertionError) as error:
        none = any(sign in str(error) for sign in ("Found no NVIDIA driver", "No CUDA GPUs", "no CUDA-capable device"))
        return None if none else f"CUDA {torch.version.cuda} does not start: {first_sentence(str(error))}"
    return None


def choose(name: str | None, rank: int = 0, local: int = 0) -> torch.device:
    """The device of that name (None, "auto": a GPU of this process's own, else the CPU), after its first sum.

    `rank` is this process among all, `local` among those of its machine. UserError where it is not there or not usable.
    """
    if name in (None, "auto"):
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UserError(f"'{name}' is not a device", where=WHERE, allowed="auto, cpu, cuda, cuda:0, mps") from None
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise UserError("no MPS device is available", where=WHERE, remedy=f"leave --device out, or {CPU}")
    if device.type != "cuda":
        return device
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    hidden = "" if visible is None else f": CUDA_VISIBLE_DEVICES is '{visible}'"
    if not torch.cuda.is_available():
        none = "no CUDA device is available" if torch.version.cuda else "this torch is built without CUDA"
        trouble = cuda_trouble()
        remedy = LOOK if trouble else f"leave --device out, or {CPU}"
        raise UserError(trouble or f"{none}{hidden}", where=WHERE, remedy=remedy)
    count = torch.cuda.device_count()
    if device.index is not None and device.index >= count:
        allowed = [f"cuda:{index}" for index in range(count)]
        raise UserError(f"there is no {device}{hidden}", where=WHERE, allowed=allowed)
    if device.index is None and 1 < count <= local:  # where srun shows a task its own GPU only, there is one
        what = f"rank {rank} is process {local + 1} of its machine, which has {count} GPUs"
        remedy = f"start at most {count} processes on it (torchrun --nproc-per-node {count}), or all with --device cpu"
        raise UserError(what, where="LOCAL_RANK", remedy=remedy)
    device = torch.device("cuda", (local if count > 1 else 0) if device.index is None else device.index)
    try:
        torch.zeros(1, device=device).add_(1).item()
    except RuntimeError as error:  # no kernels for it, no memory left, broken
        what = f"{_card(device)} does not compute: {first_sentence(str(error))}"
        raise UserError(what, where=WHERE, remedy=LOOK) from None
    return device


def precision_on(device: torch.device, wanted: str) -> str:
    """`wanted`, or what suits the device for "auto"; UserError for bf16 on a card that has it in software at best."""
    if wanted == "auto":
        return "bf16" if good_at_bf16(device) else "fp32"
    if wanted == "bf16" and device.type == "cuda" and not good_at_bf16(device):
        remedy = 'set train.precision = "auto", which takes fp32 here'
        what = f"{_card(device)} has no bfloat16 arithmetic"
        raise UserError(what, where="train.precision", allowed=("auto", "fp32"), remedy=remedy)
    return wanted


def slow_bf16(device: torch.device, precision: str) -> str | None:
    """A note where bf16 was asked for and costs time on this processor; the results are right all the same."""
    if precision != "bf16" or device.type != "cpu" or good_at_bf16(device):
        return None
    return 'bf16 is slower than float32 on this processor: train.precision = "auto" takes fp32'


def good_at_bf16(device: torch.device) -> bool:
    """Whether bf16 is quicker than float32: on Ampere and later, on CPUs with AMX, on AMD's with AVX512-BF16.

    Intel's AVX512-BF16 without AMX, which virtual machines may hide, multiplies at float32's rate and converts besides:
    a CycleGAN's step takes 1.1 (U-Net) to 1.5 times as long as in float32.
    """
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    known = cpu_info() if device.type == "cpu" else ""
    return "amx_bf16" in known or ("avx512_bf16" in known and "GenuineIntel" not in known)


def cpu_info() -> str:
    """What Linux says of the first processor; "" elsewhere."""
    try:
        with open("/proc/cpuinfo") as file:
            return file.read(1 << 14)
    except OSError:
        return ""


def driver_version() -> str | None:
    """The NVIDIA driver's, as "580.65.06"; None where Linux does not say."""
    text = DRIVER.read_text("utf-8", "replace") if DRIVER.is_file() else ""
    found = re.search(r"NVRM version:.*?\s(\d+\.\d+(?:\.\d+)?)\s", text)
    return found[1] if found else None


def first_sentence(text: str) -> str:
    """The first line of an error up to its first full stop."""
    return text.strip().split("\n")[0].split(". ")[0].rstrip(".")[:200]


def keep_memory(keep: bool, device: str = "cpu") -> bool:
    """Keep freed memory with the process, or let the system have it; whether that could be set. CPU only.

    glibc hands large blocks back to the system as soon as they are freed, and the next step's are cleared page by page
    when they are first touched: a training that asks for them anew spends up to a third of its time so.
    """
    if device != "cpu" or platform.libc_ver()[0] != "glibc":
        return False
    set_option = ctypes.CDLL(None).mallopt
    options = {M_MMAP_MAX: 65536, M_MMAP_THRESHOLD: LARGEST, M_TRIM_THRESHOLD: 2 * LARGEST}  # as glibc does by itself
    if keep:
        options = {M_MMAP_MAX: 0, M_TRIM_THRESHOLD: -1}  # -1 is "never", for sizes are unsigned there
    return all(set_option(name, value) for name, value in options.items())


def _card(device: torch.device) -> str:
    """`Tesla T4 (compute capability 7.5)`"""
    major, minor = torch.cuda.get_device_capability(device)
    return f"{torch.cuda.get_device_name(device)} (compute capability {major}.{minor})"
