"""Networks of timm as features: resizes and scales pictures, and averages feature maps."""

from __future__ import annotations

import re

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gantk import timm_model


class TimmFeatures(nn.Module):
    """Resizes and scales pictures (N, channels, H, W) from 0 to 1, and returns a timm network's
    pooled features (N, d).

    The network has its pretrained weights, and timm's size, mean and deviation. Intensities stay
    floats and are not rounded to 256 levels. Feature maps (N, d, h, w) are averaged over positions.
    """

    def __init__(self, name: str):
        super().__init__()
        network = timm_model(name, "pretrained", num_classes=0)
        config = network.pretrained_cfg
        self.network = network.to(memory_format=torch.channels_last)
        self.channels, *self.size = config["input_size"]
        self.suffix = "_" + re.sub(r"[^\w.-]+", "-", name)
        self.what = f"{name}-pretrained"
        for key in ("mean", "std"):
            self.register_buffer(key, torch.tensor(config[key])[:, None, None])

    def forward(self, x: Tensor) -> Tensor:
        x = F.interpolate(x, self.size, mode="bilinear", antialias=True)
        features = self.network(
            ((x - self.mean) / self.std).contiguous(memory_format=torch.channels_last)
        )
        return features.mean((2, 3)) if features.ndim == 4 else features
