"""Every optimisation that a recipe can turn off, and memory as each side of a comparison has it by itself."""

from __future__ import annotations

import ctypes

import torch

from gantk.machine.device import keep_memory

OFF: dict[str, str] = {  # what is lost -> the setting that turns it off
    "bf16": 'train.precision="fp32"',
    "one pass": "train.fast.batched_forward=false",
    "channels-last": "train.fast.channels_last=false",
    "fused updates": "train.fast.fused=false",
    "kernels": "train.fast.kernels=false",
    "kept memory": "train.fast.keep_memory=false",
    "capture": "train.fast.cuda_graph=false",
    "pinned memory": "train.fast.pin=false",
}
PLAIN = tuple(OFF.values())
ON: dict[str, str] = {"compile": "train.fast.compile=true"}  # what is off unless asked for
ONLY = {"cpu": ("kept memory",), "cuda": ("capture", "pinned memory")}  # without effect on other devices

_keeps = False  # as a process starts


def one_by_one(device: torch.device) -> dict[str, tuple[str, ...]]:
    """label -> settings: everything that matters on this device turned off alone, or on where it is off."""
    elsewhere = {name for kind, names in ONLY.items() if kind != device.type for name in names}
    without = {f"without {name}": (setting,) for name, setting in OFF.items() if name not in elsewhere}
    return without | {f"with {name}": (setting,) for name, setting in ON.items()}


def enter(keep: bool) -> bool:
    """Handle memory from now on as train.fast.keep_memory = `keep` does; whether that is a change.

    On a change, all that is free goes back to the system: no side profits from what the one before it had kept.
    """
    global _keeps
    keep_memory(keep)
    changed, _keeps = keep != _keeps, keep
    if changed:
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)
    return changed
