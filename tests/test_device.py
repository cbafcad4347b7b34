"""A device that cannot be computed on is one error with a remedy, whatever torch says of it; the GPUs are stand-ins."""

from __future__ import annotations

import platform
import subprocess
import sys
import warnings

import pytest
import torch

from gantk.errors import UserError
from gantk.machine import doctor
from gantk.machine.runtime import start

OLD = (
    "The NVIDIA driver on your system is too old (found version 11040). Please update your GPU driver by downloading "
    "and installing a new version from the URL: http://www.nvidia.com/Download/index.aspx"
)
NO_KERNEL = (
    "CUDA error: no kernel image is available for execution on the device\nCUDA kernel errors might be reported later"
)


@pytest.fixture
def cuda(monkeypatch):
    """A machine with two cards of one kind: `cuda(capability=(7, 5))` says which; sums fail with `fails`."""

    def cards(count=2, capability=(9, 0), name="NVIDIA H200", fails=None):
        cuda, plain = torch.cuda, torch.zeros
        monkeypatch.setattr(torch.version, "cuda", "12.8")
        monkeypatch.setattr(cuda, "is_available", lambda: True)
        monkeypatch.setattr(cuda, "device_count", lambda: count)
        monkeypatch.setattr(cuda, "get_device_capability", lambda device=None: capability)
        monkeypatch.setattr(cuda, "get_device_name", lambda device=None: name)
        monkeypatch.setattr(cuda, "get_arch_list", lambda: ["sm_80", "sm_90"])
        monkeypatch.setattr(cuda, "set_device", lambda device: None)

        def zeros(*size, device=None, **options):
            if fails is not None and torch.device(device).type == "cuda":
                raise fails
            return plain(*size, **options)

        monkeypatch.setattr(torch, "zeros", zeros)
        monkeypatch.setattr(torch.backends.cudnn, "benchmark", torch.backends.cudnn.benchmark)
        monkeypatch.setattr(torch, "set_float32_matmul_precision", lambda precision: None)

    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return cards


@pytest.fixture
def broken(monkeypatch):
    """A torch for CUDA 12.8 on a machine where CUDA starts with this error."""

    def says(error, built="12.8"):
        def init():
            raise error

        def available():
            warnings.warn(f"CUDA initialization: {error}", stacklevel=2)
            return False

        monkeypatch.setattr(torch.version, "cuda", built)
        monkeypatch.setattr(torch.cuda, "is_available", available)
        monkeypatch.setattr(torch.cuda, "init", init)

    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return says


def said(*arguments) -> str:
    with pytest.raises(UserError) as error:
        start(*arguments)
    assert error.value.exit_code == 2 and "\n" not in str(error.value)
    return str(error.value)


LOOK = (
    "See what `nvidia-smi` says; update the driver, install a torch that fits it, take another card, or "
    "use --device cpu.  (--device)"
)
AWAY = "Leave --device out, or use --device cpu.  (--device)"
BUSY = "CUDA unknown error - this may be due to an incorrectly set up environment"


@pytest.mark.filterwarnings("ignore:CUDA initialization")
@pytest.mark.parametrize(
    ("error", "built", "message"),
    [
        (OLD, "12.8", f"CUDA 12.8 does not start: {OLD.split('. ')[0]}. {LOOK}"),
        (f"{BUSY}. Setting the", "12.8", f"CUDA 12.8 does not start: {BUSY}. {LOOK}"),
        ("Found no NVIDIA driver on your system. Please check", "12.8", f"no CUDA device is available. {AWAY}"),
        ("Torch not compiled with CUDA enabled", None, f"this torch is built without CUDA. {AWAY}"),
    ],
    ids=["old driver", "broken", "no driver", "no CUDA"],
)
def test_cuda_that_does_not_start_is_one_error_that_says_why(broken, error, built, message):
    broken(RuntimeError(error), built)
    assert said("cuda") == message


@pytest.mark.filterwarnings("ignore:CUDA initialization")
def test_nobody_is_stopped_who_did_not_ask_for_cuda_and_the_doctor_says_why_it_is_not_used(broken):
    broken(RuntimeError(OLD))
    assert start(None).device == torch.device("cpu")
    assert "driver on your system is too old" in {what: wrong for what, _, wrong in doctor.findings()}["cuda"]
    broken(RuntimeError("Found no NVIDIA driver on your system."))
    assert {what: problem for what, _, problem in doctor.findings()}["cuda"] is None


@pytest.mark.parametrize("name", ["cuda", "cuda:1", None])
def test_a_card_without_kernels_stops_before_anything_is_built(cuda, name):
    cuda(capability=(5, 0), name="Quadro M2000", fails=RuntimeError(NO_KERNEL))
    why = "Quadro M2000 (compute capability 5.0) does not compute: "
    assert said(name) == f"{why}{NO_KERNEL.splitlines()[0]}. {LOOK}"


def test_a_card_that_is_not_there_is_an_error_that_lists_those_that_are(cuda, monkeypatch):
    cuda(count=2)
    assert said("cuda:7") == "there is no cuda:7. Allowed: cuda:0, cuda:1.  (--device)"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,4")
    assert said("cuda:3") == "there is no cuda:3: CUDA_VISIBLE_DEVICES is '3,4'. Allowed: cuda:0, cuda:1.  (--device)"


def test_bf16_is_taken_where_the_card_has_it_and_refused_where_it_was_asked_for_in_vain(cuda):
    cuda(capability=(8, 0))
    assert start("cuda").precision == start("cuda", "bf16").precision == "bf16"
    cuda(capability=(7, 5), name="Tesla T4")
    assert start("cuda").precision == "fp32"
    assert said("cuda", "bf16") == (
        "Tesla T4 (compute capability 7.5) has no bfloat16 arithmetic. Allowed: auto, fp32. "
        'Set train.precision = "auto", which takes fp32 here.  (train.precision)'
    )


CHILD = """
import resource, sys, torch
from gantk.machine.device import keep_memory
print(keep_memory(sys.argv[1] == "keep"))
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


@pytest.mark.slow
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library: nothing is set")
def test_kept_memory_is_not_asked_for_again():
    def child(way: str) -> int:
        done = subprocess.run([sys.executable, "-c", CHILD, way], capture_output=True, text=True, check=True)
        could, faults = done.stdout.split()
        assert could == "True"
        return int(faults)

    assert child("keep") * 20 < child("system")
