"""What tests of style transfer look at: smooth images, a striped style, the text of a refusal."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from gantk.errors import UserError

SHALLOW = {"content_layers": ("conv1_2",), "style_layers": ("conv1_1", "conv2_1")}


def blobs(count: int, channels: int = 1, size: tuple[int, ...] = (32, 32), seed: int = 0) -> torch.Tensor:
    """Smooth images in [-1, 1], (count, channels, *size), no two alike."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(count, channels, *[4] * len(size), generator=generator)
    mode = "bilinear" if len(size) == 2 else "trilinear"
    return F.interpolate(coarse, size, mode=mode, align_corners=True) * 2 - 1


def stripes(channels: int = 1, size: tuple[int, int] = (32, 32)) -> torch.Tensor:
    """A style: (1, channels, *size), unlike any blob."""
    x = torch.arange(size[1]).float()
    return torch.sin(x).expand(1, channels, *size).clone()


def refusal(call, *args, **options) -> str:
    with pytest.raises(UserError) as caught:
        call(*args, **options)
    return str(caught.value)


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    """No test may look for weights anywhere; imported where it is to hold."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.delenv("GANTK_WEIGHTS", raising=False)
