"""Whether a device can be computed on, found out before anything is: driver, card, precision. What cannot is one error
that names the remedy."""

from __future__ import annotations

import os
import re
from pathlib import Path

import torch

from gantk.errors import UserError

WHERE = "--device"
CPU = "use --device cpu"
DRIVER = Path("/proc/driver/nvidia/version")  # where Linux says which one is loaded


def cuda_trouble() -> tuple[str, str] | None:
    """(what is wrong, what to do) where this torch could use a card and does not start it; None: there simply is none.

    Asked where `torch.cuda.is_available()` has said no.
    """
    if torch.version.cuda is None:
        return None
    try:
        torch.cuda.init()
    except (RuntimeError, AssertionError) as error:
        text = str(error)
    else:
        return None
    if "too old" in text:
        at = re.search(r"found version (\d+)", text)
        knows = "" if at is None else f", and it knows CUDA {_number(int(at[1]))} at most"
        what = f"the NVIDIA driver is too old: this torch is built for CUDA {torch.version.cuda}{knows}"
        return what, f"update the driver{knows and ', or install a torch that is built for that CUDA'}, or {CPU}"
    if "Found no NVIDIA driver" in text or "No CUDA GPUs" in text or "no CUDA-capable device" in text:
        return None
    return f"CUDA does not start: {first_sentence(text)}", f"see what `nvidia-smi` says, restart the machine, or {CPU}"


def no_cuda() -> UserError:
    """What to tell who asked for CUDA where there is none."""
    trouble, remedy = cuda_trouble(), "leave --device out, or use --device cpu"
    if trouble is not None:
        return UserError(trouble[0], where=WHERE, remedy=trouble[1])
    if torch.version.cuda is None:
        return UserError("this torch is built without CUDA", where=WHERE, remedy=f"install one with it, or {CPU}")
    return UserError(f"no CUDA device is available{_hidden()}", where=WHERE, remedy=remedy)


def check_index(device: torch.device) -> None:
    """UserError where there is no card of that number."""
    count = torch.cuda.device_count()
    if device.index is not None and device.index >= count:
        allowed = [f"cuda:{index}" for index in range(count)]
        raise UserError(f"there is no {device}{_hidden()}", where=WHERE, allowed=allowed)


def tried(device: torch.device) -> torch.device:
    """The device itself, after its first sum; UserError where a card cannot do it."""
    if device.type != "cuda":
        return device
    try:
        torch.zeros(1, device=device).add_(1).item()
    except RuntimeError as error:
        raise _unusable(device, str(error)) from None
    return device


def precision_on(device: torch.device, wanted: str) -> str:
    """`wanted`, or what suits the device for "auto"; UserError for bf16 on a card that has it in software at best."""
    if wanted == "auto":
        return "bf16" if good_at_bf16(device) else "fp32"
    if wanted == "bf16" and device.type == "cuda" and not good_at_bf16(device):
        raise UserError(
            f"{_card(device)} has no bfloat16 arithmetic",
            where="train.precision",
            allowed=("auto", "fp32"),
            remedy='set train.precision = "auto", which takes fp32 here',
        )
    return wanted


def slow_bf16(device: torch.device, precision: str) -> str | None:
    """What to say where bf16 was asked for and costs time on this processor; the results are right all the same."""
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
    if device.type == "cpu":
        known = cpu_info()
        return "amx_bf16" in known or ("avx512_bf16" in known and "GenuineIntel" not in known)
    return False


def cpu_info() -> str:
    """What Linux says of the first processor; "" elsewhere."""
    try:
        with open("/proc/cpuinfo") as file:
            return file.read(1 << 14)
    except OSError:
        return ""


def driver_version() -> str | None:
    """The NVIDIA driver's, as "580.65.06"; None where Linux does not say."""
    try:
        found = re.search(r"NVRM version:.*?\s(\d+\.\d+(?:\.\d+)?)\s", DRIVER.read_text("utf-8", "replace"))
    except OSError:
        return None
    return found[1] if found else None


def first_sentence(text: str) -> str:
    """The first line of an error up to its first full stop."""
    return text.strip().split("\n")[0].split(". ")[0].rstrip(".")[:200]


def _unusable(device: torch.device, text: str) -> UserError:
    card = _card(device)
    if "no kernel image" in text:
        return UserError(
            f"this torch has no kernels for {card}, only for {', '.join(torch.cuda.get_arch_list())}",
            where=WHERE,
            remedy=f"install a torch that is built for it, or {CPU}",
        )
    if "out of memory" in text:
        remedy = f"see in `nvidia-smi` what holds it, take another card, or {CPU}"
        return UserError(f"{card} has no memory left to start with", where=WHERE, remedy=remedy)
    what = f"{card} does not compute: {first_sentence(text)}"
    return UserError(what, where=WHERE, remedy=f"see what `nvidia-smi` says, take another card, or {CPU}")


def _card(device: torch.device) -> str:
    """`Tesla T4 (compute capability 7.5)`"""
    major, minor = torch.cuda.get_device_capability(device)
    return f"{torch.cuda.get_device_name(device)} (compute capability {major}.{minor})"


def _hidden() -> str:
    """What hides cards from this process, for a sentence's end."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    return "" if visible is None else f": CUDA_VISIBLE_DEVICES is '{visible}'"


def _number(version: int) -> str:
    """11040 -> 11.4"""
    return f"{version // 1000}.{version % 1000 // 10}"
