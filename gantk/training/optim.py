"""Optimizers and learning-rate schedules: torch's, without importing its compiler. Plugins register
others.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from gantk.plugin.spec import Fraction, Share, Weight
from gantk.runs.schemas import OptimizerState

# options of this machine, never loaded
RUN_OPTIONS = ("params", "fused", "foreach", "capturable", "differentiable")


def adam(
    params: Iterable,
    *,
    lr: Weight = 2e-4,  # learning rate where the factor of the schedule is 1
    # decay of the running means of the gradient and of its square
    betas: tuple[Fraction, Fraction] = (0.5, 0.999),
    weight_decay: Weight = 0.0,  # L2 penalty, added to the gradient
):
    """Adam (Kingma and Ba 2015), fused; beta1 = 0.5 is usual for GANs (Radford et al. 2016)."""
    return Adam(params, lr=lr, betas=betas, weight_decay=weight_decay, fused=True)


def sgd(
    params: Iterable,
    *,
    lr: Weight = 0.01,  # learning rate where the factor of the schedule is 1
    momentum: Fraction = 0.0,  # share of the last update that is added to the next one
):
    """Stochastic gradient descent, with momentum as an option."""
    return SGD(params, lr=lr, momentum=momentum, fused=True)


def adamw(
    params: Iterable,
    *,
    lr: Weight = 2e-4,  # learning rate where the factor of the schedule is 1
    # decay of the running means of the gradient and of its square
    betas: tuple[Fraction, Fraction] = (0.5, 0.999),
    weight_decay: Weight = 0.01,  # every step reduces the weights by lr x this share
):
    """Adam with decoupled weight decay (Loshchilov and Hutter 2019), fused."""
    return AdamW(params, lr=lr, betas=betas, weight_decay=weight_decay, fused=True)


def rmsprop(
    params: Iterable,
    *,
    lr: Weight = 5e-5,  # learning rate where the factor of the schedule is 1
    decay: Fraction = 0.9,  # decay of the mean of squared gradients
):
    """RMSProp, as the Wasserstein GAN and the original DualGAN use it."""
    return RMSprop(params, lr=lr, alpha=decay)


class Untraced:
    """Mixin, first base class of a torch optimizer: skips the wrappers that import torch's
    compiler. Same results.

    That import takes nearly as long as torch's own, before the first step; gantk compiles losses
    only.
    """

    state_names: tuple[str, ...] = ()  # of each weight, after a step
    add_param_group = inspect.unwrap(Optimizer.add_param_group)
    load_state_dict = inspect.unwrap(Optimizer.load_state_dict)
    state_dict = inspect.unwrap(Optimizer.state_dict)
    zero_grad = inspect.unwrap(Optimizer.zero_grad)

    def __init_subclass__(cls, **options) -> None:
        super().__init_subclass__(**options)
        if hasattr(cls, "step"):  # other mixins have none
            cls.step = torch.no_grad()(inspect.unwrap(cls.step))


class Adam(Untraced, torch.optim.Adam):
    """torch's Adam without the import of its compiler, fast on channels-last weights."""

    state_names = ("step", "exp_avg", "exp_avg_sq")

    def _init_group(self, group: dict, params: list, gradients: list, *others: list) -> bool:
        complex_numbers = super()._init_group(group, params, gradients, *others)
        order_as_weights(params, gradients)
        view_in_storage_order(params, gradients, *others)
        return complex_numbers


class AdamW(Adam, torch.optim.AdamW):
    """torch's AdamW for weights in any memory layout."""


class SGD(Untraced, torch.optim.SGD):
    """torch's SGD without the import of its compiler."""

    def _init_group(self, group: dict, params: list, gradients: list, *others: list) -> bool:
        sparse = super()._init_group(group, params, gradients, *others)
        order_as_weights(params, gradients)
        return sparse


class RMSprop(Untraced, torch.optim.RMSprop):
    """torch's RMSprop, without its slow import of the compiler."""

    state_names = ("step", "square_avg")


def order_as_weights(params: list[Tensor], gradients: list[Tensor]) -> None:
    """For fused kernels, which read elements in storage order: copy each gradient whose memory
    layout differs from its weight's, as hooks may leave it, into that layout.
    """
    for index, (weight, gradient) in enumerate(zip(params, gradients, strict=True)):
        if not gradient.is_sparse and not same_order(gradient, weight):
            gradients[index] = torch.empty_like(weight).copy_(gradient)


def view_in_storage_order(params: list[Tensor], *others: list[Tensor]) -> None:
    """Replace weights, gradients and moments by views in storage order, for torch's Adam.

    On a CPU the fused kernel would copy channels-last tensors. Every element is updated by itself,
    so any order is right that is the same for all four.
    """
    orders = [storage_order(p) for p in params]
    for tensors in (params, *others):
        for index, (tensor, order) in enumerate(zip(tensors, orders, strict=False)):
            if order is not None and tensor.ndim == len(order):
                tensors[index] = tensor.detach().permute(order)


def storage_order(tensor: Tensor) -> list[int] | None:
    """The permutation in which a tensor is contiguous; None if it is contiguous already, or in no
    order.
    """
    if tensor.is_contiguous():
        return None
    order = sorted(range(tensor.ndim), key=tensor.stride, reverse=True)
    return order if tensor.detach().permute(order).is_contiguous() else None


def same_order(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors of one shape have the same memory layout."""
    if one.stride() == other.stride():
        return True
    strides = zip(one.shape, one.stride(), other.stride(), strict=True)
    return all(a == b for side, a, b in strides if side > 1)


def move_state(optimizer: Optimizer, device: torch.device) -> None:
    """Move learning rates and step counts to the device of the update, so that a CUDA graph reads
    their latest values. Call it again after `load_state_dict`.
    """
    cuda = device.type == "cuda"
    for group in optimizer.param_groups:
        if "capturable" in group:
            group["capturable"] = cuda
        rate = float(group["lr"])
        needs_tensor = group.get("fused") or group.get("capturable")
        group["lr"] = torch.tensor(rate, device=device) if needs_tensor else rate

    for weight, state in optimizer.state.items():
        for name, value in state.items():
            if not isinstance(value, Tensor):
                continue
            if value.shape == weight.shape and not same_order(value, weight):
                # saved with another train.channels_last
                state[name] = torch.empty_like(weight).copy_(value)
            elif name == "step" and cuda:
                state[name] = value.to(device)

    optimizer._warned_capturable_if_run_uncaptured = cuda  # warm-up steps are meant to


def state_to_load(optimizer: Optimizer, saved: OptimizerState) -> dict[str, Any]:
    """Check a saved `state_dict`; returns the one to load. ValueError if it is another optimizer's.

    Damaged ones may raise any error. torch's optimizers keep the recipe's options: a training
    changes none but the learning rate.
    """
    saved_groups = saved.param_groups
    groups = optimizer.state_dict()["param_groups"]
    if [group["params"] for group in saved_groups] != [group["params"] for group in groups]:
        raise ValueError("it belongs to other weights")

    if isinstance(optimizer, Adam | SGD | RMSprop):
        _expect_state_of(optimizer, saved.state)

    is_torchs = any(
        base.__module__.startswith("torch.optim.") for base in type(optimizer).__mro__[:-2]
    )
    if not is_torchs:
        for saved_group, group in zip(saved_groups, groups, strict=True):
            for key, value in saved_group.items():
                if key not in RUN_OPTIONS:  # JSON has made lists of tuples
                    group[key] = tuple(value) if isinstance(group.get(key), tuple) else value

    return {"state": saved.state, "param_groups": groups}


def _expect_state_of(optimizer: Any, states: dict[int, dict[str, Any]]) -> None:
    """ValueError where states are not those of the weights of gantk's own optimizer. A fused kernel
    reads as many elements as the weights have, whatever size the moments have.
    """
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    if not states.keys() <= set(range(len(weights))):
        raise ValueError(f"it holds the state of {len(states)} of {len(weights)} weights")

    for index, state in states.items():
        lacking = [name for name in optimizer.state_names if name not in state]
        if lacking:
            raise ValueError(f"weight {index} has no '{lacking[0]}'")

        for name, value in state.items():
            if not isinstance(value, Tensor) or not value.ndim:
                continue
            weight = weights[index]
            if (value.shape, value.dtype) != (weight.shape, weight.dtype):
                what = f"{value.dtype} of the shape {tuple(value.shape)}"
                raise ValueError(f"'{name}' of weight {index} is {what}")


class Constant:
    """The same learning rate throughout."""

    def __call__(self, progress: float) -> float:
        return 1.0


class Linear:
    """Constant learning rate, then linear decay: the schedule of CycleGAN (Zhu et al. 2017)."""

    def __init__(
        self,
        *,
        start: Share = 0.5,  # share of the training before the decay begins
        end: Weight = 0.0,  # factor at the end of the training
    ):
        self.start = start
        self.end = end

    def __call__(self, progress: float) -> float:
        done = max(0.0, progress - self.start) / max(1e-9, 1.0 - self.start)
        return 1.0 + (self.end - 1.0) * min(1.0, done)


class Cosine:
    """Cosine decay of the learning rate: half a period, from factor 1 to `end`."""

    def __init__(
        self,
        *,
        end: Weight = 0.0,  # factor at the end of the training
    ):
        self.end = end

    def __call__(self, progress: float) -> float:
        return self.end + (1.0 - self.end) * (1.0 + math.cos(math.pi * min(1.0, progress))) / 2.0
