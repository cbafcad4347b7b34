"""Optimizers and schedules beside the core's Adam, SGD and linear decay."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor

from gantk.plugin.spec import Count, Fraction, Share, Weight
from gantk.training.optim import Untraced, order_as_weights, view_in_storage_order


def adamw(
    params: Iterable,
    *,
    lr: Weight = 2e-4,  # learning rate where the schedule's factor is 1
    # decay of the means of the gradient and of its square
    betas: tuple[Fraction, Fraction] = (0.5, 0.999),
    weight_decay: Weight = 0.01,  # every step reduces the weights by lr x this share
):
    """Adam with decoupled weight decay (Loshchilov and Hutter 2019), fused."""
    return AdamW(params, lr=lr, betas=betas, weight_decay=weight_decay, fused=True)


def rmsprop(
    params: Iterable,
    *,
    lr: Weight = 5e-5,  # learning rate where the schedule's factor is 1
    decay: Fraction = 0.9,  # decay of the mean of squared gradients
):
    """RMSProp, as the Wasserstein GAN and the original DualGAN use it."""
    return RMSprop(params, lr=lr, alpha=decay)


def lbfgs(
    params: Iterable,
    *,
    lr: Weight = 1.0,  # length of a step
    history: Count = 10,  # last updates from which the curvature is estimated
    iterations: Count = 1,  # inner iterations per training step
):
    """L-BFGS: `iterations` inner iterations per training step; for optimising an image rather than
    a network.
    """
    return LBFGS(params, lr=lr, history_size=history, max_iter=iterations)


class AdamW(Untraced, torch.optim.AdamW):
    """torch's AdamW for weights in any memory layout."""

    def _init_group(self, group: dict, params: list, gradients: list, *others: list) -> bool:
        complex_numbers = super()._init_group(group, params, gradients, *others)
        order_as_weights(params, gradients)
        view_in_storage_order(params, gradients, *others)
        return complex_numbers


class RMSprop(Untraced, torch.optim.RMSprop):
    """torch's RMSprop, without its slow import of the compiler."""


class LBFGS(Untraced, torch.optim.LBFGS):
    """torch's L-BFGS for weights in any memory layout; the original cannot flatten channels-last
    gradients.
    """

    def _gather_flat_grad(self) -> Tensor:
        gradients = (torch.zeros_like(p) if p.grad is None else p.grad for p in self._params)
        return torch.cat([gradient.reshape(-1) for gradient in gradients])


class Cosine:
    """Cosine decay of the learning rate: half a period, from factor 1 to `end`."""

    def __init__(
        self,
        *,
        end: Weight = 0.0,  # the factor at the end
    ):
        self.end = end

    def __call__(self, progress: float) -> float:
        return self.end + (1.0 - self.end) * (1.0 + math.cos(math.pi * min(1.0, progress))) / 2.0


class Warmup:
    """Linear warm-up of the learning rate from 0 to factor 1, then cosine decay to `end`."""

    def __init__(
        self,
        *,
        rise: Share = 0.05,  # share of the training that is warm-up, 0..1
        end: Weight = 0.0,  # the factor at the end
    ):
        self.rise = rise
        self.cosine = Cosine(end=end)

    def __call__(self, progress: float) -> float:
        if progress < self.rise:
            return progress / self.rise
        return self.cosine((progress - self.rise) / max(1e-9, 1.0 - self.rise))
