"""Update rules and schedules beyond Adam, SGD and a linear decay."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor

from gantk.plugin.spec import Count, Fraction, Share, Weight
from gantk.training.optim import StorageOrder, Untraced


def adamw(
    params: Iterable,
    *,
    lr: Weight = 2e-4,  # learning rate at full schedule
    betas: tuple[Fraction, Fraction] = (0.5, 0.999),  # decay of the gradient's mean, and of its square's
    weight_decay: Weight = 0.01,  # shrinks the weights by lr x this at every step
):
    """Adam with decoupled weight decay (Loshchilov and Hutter 2019), fused."""
    return AdamW(params, lr=lr, betas=betas, weight_decay=weight_decay, fused=True)


def rmsprop(
    params: Iterable,
    *,
    lr: Weight = 5e-5,  # learning rate at full schedule
    decay: Fraction = 0.9,  # of the mean of squared gradients
):
    """RMSProp, as the Wasserstein GAN and the original DualGAN use it."""
    return RMSprop(params, lr=lr, alpha=decay)


def lbfgs(
    params: Iterable,
    *,
    lr: Weight = 1.0,  # length of a step
    history: Count = 10,  # updates that the curvature is estimated from
    iterations: Count = 1,  # inner iterations per training step
):
    """L-BFGS: `iterations` inner iterations per training step; for optimising an image rather than a network."""
    return LBFGS(params, lr=lr, history_size=history, max_iter=iterations)


class AdamW(StorageOrder, torch.optim.AdamW):
    """torch's."""


class RMSprop(Untraced, torch.optim.RMSprop):
    """torch's."""


class LBFGS(Untraced, torch.optim.LBFGS):
    """torch's, for weights in any memory layout: its own cannot flatten gradients that are channels-last."""

    def _gather_flat_grad(self) -> Tensor:
        gradients = (torch.zeros_like(p) if p.grad is None else p.grad for p in self._params)
        return torch.cat([gradient.reshape(-1) for gradient in gradients])


class Cosine:
    """Half a cosine from 1 to `end`."""

    def __init__(
        self,
        *,
        end: Weight = 0.0,  # the factor at the end
    ):
        self.end = end

    def __call__(self, progress: float) -> float:
        return self.end + (1.0 - self.end) * (1.0 + math.cos(math.pi * min(1.0, progress))) / 2.0


class Warmup:
    """A linear rise from zero, then half a cosine to `end`."""

    def __init__(
        self,
        *,
        rise: Share = 0.05,  # the part of the training that the rise takes, 0..1
        end: Weight = 0.0,  # the factor at the end
    ):
        self.rise, self.cosine = rise, Cosine(end=end)

    def __call__(self, progress: float) -> float:
        if progress < self.rise:
            return progress / self.rise
        return self.cosine((progress - self.rise) / max(1e-9, 1.0 - self.rise))
