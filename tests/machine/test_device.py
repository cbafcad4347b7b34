"""A device that cannot be computed on is one error with a remedy, whatever torch says of it; the
GPUs are stand-ins.
"""

import pytest
import torch

from gantk.errors import UserError
from gantk.lookup import doctor
from gantk.machine.runtime import start

OLD = (
    "The NVIDIA driver on your system is too old (found version 11040). Please update your GPU"
    " driver by downloading and installing a new version from the URL:"
    " http://www.nvidia.com/Download/index.aspx"
)
NO_KERNEL = (
    "CUDA error: no kernel image is available for execution on the device\nCUDA kernel errors might"
    " be reported later"
)


@pytest.fixture
def cuda(monkeypatch):
    """A machine with two cards of one kind: `cuda(capability=(7, 5))` says which; sums fail with
    `fails`.
    """

    def cards(count=2, capability=(9, 0), name="NVIDIA H200", fails=None):
        plain = torch.zeros

        def zeros(*size, device=None, **options):
            if fails is not None and torch.device(device).type == "cuda":
                raise fails
            return plain(*size, **options)

        answers = {"is_available": True, "device_count": count, "get_device_capability": capability}
        answers |= {
            "get_device_name": name,
            "get_arch_list": ["sm_80", "sm_90"],
            "set_device": None,
        }
        for function, answer in answers.items():
            monkeypatch.setattr(torch.cuda, function, lambda device=None, answer=answer: answer)

        monkeypatch.setattr(torch.version, "cuda", "12.8")
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

        monkeypatch.setattr(torch.version, "cuda", built)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        monkeypatch.setattr(torch.cuda, "init", init)

    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return says


def said(*arguments) -> str:
    with pytest.raises(UserError) as error:
        start(*arguments)
    assert error.value.exit_code == 2
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize(
    ("error", "built", "message"),
    [
        (
            OLD,
            "12.8",
            f"CUDA 12.8 cannot start: {OLD.split('. ')[0]}. Check the GPU with `nvidia-smi`",
        ),
        (
            "Found no NVIDIA driver on your system. Please check",
            "12.8",
            "no CUDA device is available.",
        ),
        ("Torch not compiled with CUDA enabled", None, "this torch was built without CUDA."),
    ],
    ids=["old driver", "no driver", "no CUDA"],
)
def test_cuda_that_does_not_start_is_one_error_with_cause(broken, error, built, message):
    broken(RuntimeError(error), built)
    assert said("cuda").startswith(message)
    assert "use --device cpu" in said("cuda")
    assert start(None).device == torch.device("cpu")
    wrong = {what: problem for what, _, problem in doctor.findings()}.get("cuda")
    assert (wrong is not None) == (error == OLD)  # the doctor names what can be mended


@pytest.mark.parametrize("name", ["cuda", "cuda:1", None])
def test_a_card_without_kernels_stops_before_anything_is_built(cuda, name):
    cuda(capability=(5, 0), name="Quadro M2000", fails=RuntimeError(NO_KERNEL))
    why = "Quadro M2000 (compute capability 5.0) cannot compute: "

    assert said(name).startswith(f"{why}{NO_KERNEL.splitlines()[0]}. Check the GPU")


def test_a_missing_card_is_an_error_that_lists_the_others(cuda, monkeypatch):
    cuda(count=2)
    assert said("cuda:7") == "there is no cuda:7. Allowed: cuda:0, cuda:1.  (device)"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,4")
    assert "CUDA_VISIBLE_DEVICES is '3,4'. Allowed: cuda:0, cuda:1." in said("cuda:3")


def test_bf16_is_used_or_refused_by_card(cuda):
    cuda(capability=(8, 0))
    assert start("cuda").precision == start("cuda", "bf16").precision == "bf16"
    cuda(capability=(7, 5), name="Tesla T4")
    assert start("cuda").precision == "fp32"
    assert (
        "Tesla T4 (compute capability 7.5) cannot compute in bfloat16. Allowed: auto, fp32."
        in said("cuda", "bf16")
    )
