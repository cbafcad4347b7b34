"""Every optimisation that a recipe can turn off, and memory as each side of a comparison has it by itself."""

from __future__ import annotations

import ctypes

import torch

from gantk.machine.allocator import use_allocator

OFF: dict[str, str] = {  # what is lost -> the setting that turns it off
    "bf16": 'train.precision="fp32"',
    "one pass": "train.batched=false",
    "channels-last": "train.channels_last=false",
    "fused updates": "train.fused=false",
    "kernels": "train.kernels=false",
    "frozen networks": "train.frozen=false",
    "kept memory": 'train.allocator="system"',
    "capture": 'train.capture="off"',
    "pinned memory": "data.pin=false",
}
PLAIN = tuple(OFF.values())
ON: dict[str, str] = {"compile": "train.compile=true"}  # what is off unless asked for
ONLY = {"cpu": ("kept memory",), "cuda": ("capture", "pinned memory")}  # without effect on other devices

_mode = "system"  # as a process starts


def one_by_one(device: torch.device) -> dict[str, tuple[str, ...]]:
    """label -> settings: everything that matters on this device turned off alone, or on where it is off."""
    elsewhere = {name for kind, names in ONLY.items() if kind != device.type for name in names}
    without = {f"without {name}": (setting,) for name, setting in OFF.items() if name not in elsewhere}
    return without | {f"with {name}": (setting,) for name, setting in ON.items()}


def enter(mode: str) -> bool:
    """Handle memory from now on as train.allocator = `mode` does ("keep" or "system"); whether that is a change.

    On a change, all that is free goes back to the system: no side profits from what the one before it had kept.
    """
    global _mode
    use_allocator(mode)
    changed, _mode = mode != _mode, mode
    if changed:
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)
    return changed
