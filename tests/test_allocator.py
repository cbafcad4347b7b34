"""Freed memory that is kept is not cleared again page by page."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

CHILD = """
import resource, sys, torch
from gantk.machine.allocator import give_back, keep_memory
print({"keep": keep_memory, "system": give_back}[sys.argv[1]]())
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
def step():
    torch.empty(64 << 18).fill_(1.0)  # 64 MiB
for _ in range(16):  # until every request fits into something that was freed
    step()
before = faults()
for _ in range(8):
    step()
print(faults() - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library: nothing is set")
def test_kept_memory_is_not_asked_for_again():
    def child(way: str) -> int:
        done = subprocess.run([sys.executable, "-c", CHILD, way], capture_output=True, text=True, check=True)
        could, faults = done.stdout.split()
        assert could == "True"
        return int(faults)

    assert child("keep") * 20 < child("system")


def test_another_c_library_is_left_alone(monkeypatch):
    from gantk.machine import allocator

    monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))
    allocator._mallopt.cache_clear()
    try:
        assert not allocator.keep_memory()
        assert not allocator.give_back()
    finally:
        allocator._mallopt.cache_clear()
