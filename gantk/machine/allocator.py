"""Freed memory stays with the process: on a CPU, a training step that asks for it anew spends a third of its time so.

glibc hands large blocks back to the system as soon as they are freed, and the next step's are cleared page by page when
they are first touched. A training frees and asks for the same blocks at every step.
"""

from __future__ import annotations

import ctypes
import functools
import platform
from collections.abc import Callable

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_MMAP_MAX = -1, -3, -4  # of malloc.h
LARGEST = 32 << 20  # bytes: where glibc's own threshold for blocks of their own ends up in a training (mallopt(3))


def use_allocator(keep: bool, device: str = "cpu") -> None:
    """Keep freed memory, or give it back to the system, as train.fast.keep_memory says; CPU only."""
    if device == "cpu":
        keep_memory() if keep else give_back()


def keep_memory() -> bool:
    """Keep what is freed for the next request; whether this system's allocator can be told so."""
    set_option = _mallopt()
    # -1 is "never", for sizes are unsigned there
    return bool(set_option and set_option(M_MMAP_MAX, 0) and set_option(M_TRIM_THRESHOLD, -1))


def give_back() -> bool:
    """As the system does it by itself, once blocks of every size were freed; whether that could be set."""
    set_option = _mallopt()
    return bool(
        set_option
        and set_option(M_MMAP_MAX, 65536)
        and set_option(M_MMAP_THRESHOLD, LARGEST)
        and set_option(M_TRIM_THRESHOLD, 2 * LARGEST)
    )


@functools.cache
def _mallopt() -> Callable[[int, int], int] | None:
    if platform.libc_ver()[0] != "glibc":
        return None
    return ctypes.CDLL(None).mallopt
