"""The device to compute on: a check that it works, its precision and driver, and a CPU's handling
of freed memory.
"""

from __future__ import annotations

import ctypes
import os
import platform
import re
from pathlib import Path

import torch

from gantk.errors import UserError

WHERE = "--device"
CPU = "use --device cpu"
LOOK = (
    "check the GPU with `nvidia-smi`; update the driver, install a torch for this driver,"
    f" use another GPU, or {CPU}"
)
# number of spatial dimensions -> the memory format
CHANNELS_LAST = {2: torch.channels_last, 3: torch.channels_last_3d}
DRIVER = Path("/proc/driver/nvidia/version")  # version of the loaded driver, on Linux
# of glibc's malloc.h
M_TRIM_THRESHOLD = -1
M_MMAP_THRESHOLD = -3
M_MMAP_MAX = -4
# bytes: what glibc's threshold for mmap'ed blocks reaches in a training (mallopt(3))
MMAP_THRESHOLD_BYTES = 32 << 20


def cuda_trouble() -> str | None:
    """The reason why torch, built for CUDA, cannot use the GPU; None if there is no GPU or torch
    has no CUDA.

    Call it after `torch.cuda.is_available()` has returned False.
    """
    if torch.version.cuda is None:
        return None

    try:
        torch.cuda.init()
    except (RuntimeError, AssertionError) as error:
        none = any(
            sign in str(error)
            for sign in ("Found no NVIDIA driver", "No CUDA GPUs", "no CUDA-capable device")
        )
        if none:
            return None
        return f"CUDA {torch.version.cuda} cannot start: {first_sentence(str(error))}"

    return None


def choose(name: str | None, rank: int = 0, local: int = 0) -> torch.device:
    """The device of that name, tested by an addition; None, "auto": a GPU of this process's own,
    else the CPU.

    `rank` is this process among all, `local` among those of its machine. UserError if the device
    cannot be used.
    """
    if name in (None, "auto"):
        name = "cuda" if torch.cuda.is_available() else "cpu"

    try:
        device = torch.device(name)
    except RuntimeError:
        raise UserError(
            f"'{name}' is not a valid device", where=WHERE, allowed="auto, cpu, cuda, cuda:0, mps"
        ) from None

    if device.type == "cuda":
        device = _own_gpu(device, rank, local)

    try:
        torch.zeros(1, device=device).add_(1).item()
    # no kernels for this GPU, no memory left, a defect, or a kind that this torch has not
    except (RuntimeError, AssertionError, ImportError) as error:
        card = _card(device) if device.type == "cuda" else f"the device '{device}'"
        raise UserError(
            f"{card} cannot compute: {first_sentence(str(error))}",
            where=WHERE,
            remedy=LOOK if device.type == "cuda" else f"omit --device, or {CPU}",
        ) from None

    return device


def _own_gpu(device: torch.device, rank: int, local: int) -> torch.device:
    """The GPU asked for, or this process's own among those of the machine; UserError if there is
    none.
    """
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    hidden = "" if visible is None else f": CUDA_VISIBLE_DEVICES is '{visible}'"
    if not torch.cuda.is_available():
        trouble = cuda_trouble()
        if trouble:
            raise UserError(trouble, where=WHERE, remedy=LOOK)
        what = "this torch was built without CUDA"
        if torch.version.cuda:
            what = "no CUDA device is available"
        raise UserError(f"{what}{hidden}", where=WHERE, remedy=f"omit --device, or {CPU}")

    count = torch.cuda.device_count()
    if device.index is not None:
        if device.index >= count:
            raise UserError(
                f"there is no {device}{hidden}",
                where=WHERE,
                allowed=[f"cuda:{index}" for index in range(count)],
            )
        return device

    if count == 1:  # also if srun gives each task one visible GPU
        return torch.device("cuda", 0)

    if count <= local:
        raise UserError(
            f"rank {rank} is process {local + 1} on its machine, which has only {count} GPUs",
            where="LOCAL_RANK",
            remedy=(
                f"start at most {count} processes on this machine (torchrun --nproc-per-node"
                f" {count}), or start all ranks with --device cpu"
            ),
        )

    return torch.device("cuda", local)


def precision_on(device: torch.device, wanted: str) -> str:
    """`wanted`, or for "auto" what suits the device; UserError for bf16 on a GPU without hardware
    for it.
    """
    if wanted == "auto":
        return "bf16" if good_at_bf16(device) else "fp32"

    if wanted == "bf16" and device.type == "cuda" and not good_at_bf16(device):
        raise UserError(
            f"{_card(device)} cannot compute in bfloat16",
            where="train.precision",
            allowed=("auto", "fp32"),
            remedy='set train.precision = "auto", which uses fp32 here',
        )

    return wanted


def good_at_bf16(device: torch.device) -> bool:
    """Whether bf16 is faster than float32: on Ampere and later, on CPUs with AMX, on AMD's with
    AVX512-BF16.

    Intel's AVX512-BF16 without AMX, which virtual machines may hide, multiplies at float32's rate
    and converts besides: a CycleGAN's step takes 1.1 (U-Net) to 1.5 times as long as in float32.
    """
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)

    flags = cpu_info() if device.type == "cpu" else ""
    return "amx_bf16" in flags or ("avx512_bf16" in flags and "GenuineIntel" not in flags)


def cpu_info() -> str:
    """The first 16 kB of /proc/cpuinfo, which describe the first processor; "" if there is none."""
    try:
        with open("/proc/cpuinfo") as file:
            return file.read(1 << 14)
    except OSError:
        return ""


def driver_version() -> str | None:
    """The NVIDIA driver's version, such as "580.65.06"; None if unknown."""
    text = DRIVER.read_text("utf-8", "replace") if DRIVER.is_file() else ""
    match = re.search(r"NVRM version:.*?\s(\d+\.\d+(?:\.\d+)?)\s", text)
    return match[1] if match else None


def first_sentence(text: str) -> str:
    """The first line of an error up to its first full stop."""
    return text.strip().split("\n")[0].split(". ")[0].rstrip(".")[:200]


def keep_memory(keep: bool, device: str = "cpu") -> None:
    """Keep freed memory in the process, or let glibc return it; CPU only, where glibc is there.

    glibc returns large blocks to the system as soon as they are freed, and the system clears those
    of the next step page by page at first use: without kept memory a training spends up to a third
    of its time on this.
    """
    if device != "cpu" or platform.libc_ver()[0] != "glibc":
        return

    set_option = ctypes.CDLL(None).mallopt
    # glibc's defaults
    options = {
        M_MMAP_MAX: 65536,
        M_MMAP_THRESHOLD: MMAP_THRESHOLD_BYTES,
        M_TRIM_THRESHOLD: 2 * MMAP_THRESHOLD_BYTES,
    }
    if keep:
        options = {M_MMAP_MAX: 0, M_TRIM_THRESHOLD: -1}  # -1: never, as the size is unsigned

    for name, value in options.items():
        set_option(name, value)


def _card(device: torch.device) -> str:
    """Name of a GPU for messages: `Tesla T4 (compute capability 7.5)`."""
    major, minor = torch.cuda.get_device_capability(device)
    return f"{torch.cuda.get_device_name(device)} (compute capability {major}.{minor})"
