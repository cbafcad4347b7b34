"""Noise of samples, images made from it in parts that fit into memory, and their range."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from gantk.method import Method


def seeded_rows(n: int, seed: int, device: torch.device, draw: Callable[..., Tensor]) -> Tensor:
    """`n` rows that `draw` draws one by one: row k depends on the seed and not on `n`.

    Drawn on the CPU, so that they are the same on every device.
    """
    generator = torch.Generator().manual_seed(seed)
    return torch.stack([draw(generator=generator, device="cpu") for _ in range(n)]).to(device)


def generate_in_parts(
    method: Method, make: Callable, noise: Tensor, labels: Tensor | None, images_per_call: int
) -> Tensor:
    """The images that `make` makes of noise (n, latent) and labels (n,), or the classes in turn."""
    labels = method.labels_of(len(noise), labels)
    parts = zip(noise.split(images_per_call), labels.split(images_per_call), strict=True)
    return torch.cat([make(*part) for part in parts])


def scale_to_range(image: Tensor, ends: tuple[float, float]) -> Tensor:
    """Images of a tanh, from -1 to 1, in network intensities from black to white."""
    low, high = ends
    return image if (low, high) == (-1.0, 1.0) else (image + 1) * ((high - low) / 2) + low
