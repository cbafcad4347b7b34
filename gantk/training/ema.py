"""Exponential moving average of the generators' weights, which inference uses."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class EMA:
    """Keeps `average = decay * average + (1 - decay) * weight` of a method's parameters (Karras et
    al. 2018).

    Early on the decay is min(decay, (1 + t) / (10 + t)), so that the first weights soon fade.
    Buffers of the averaged modules (batch-norm statistics) are copied, not averaged. The caller
    counts the `updates`.
    """

    def __init__(self, method: nn.Module, modules: Iterable[nn.Module], decay: float):
        self.decay = decay
        self.updates = 0
        chosen = {
            id(tensor) for module in modules for tensor in [*module.parameters(), *module.buffers()]
        }
        kept = method.state_dict().keys()  # buffers outside checkpoints are not averaged
        weights = {
            name: tensor for name, tensor in method.named_parameters() if id(tensor) in chosen
        }
        buffers = {
            name: tensor
            for name, tensor in method.named_buffers()
            if id(tensor) in chosen and name in kept
        }
        self._live = weights | buffers
        self.average = {name: tensor.detach().clone() for name, tensor in self._live.items()}
        self._weights: list[Tensor] = list(weights.values())
        self._means = [self.average[name] for name in weights]
        self._buffers = list(buffers.values())
        self._copies = [self.average[name] for name in buffers]
        # of live weights in the next average
        self._share = torch.zeros((), device=next(method.parameters()).device)

    def prepare(self, ahead: int = 0) -> None:
        """Set the share for the next `average_in`, or the one `ahead` steps later: a CUDA graph
        cannot count.
        """
        count = self.updates + 1 + ahead
        self._share.fill_(1.0 - min(self.decay, (1 + count) / (10 + count)))

    @torch.no_grad()
    def average_in(self) -> None:
        """Update the averages from the live weights; on a GPU in a few multi-tensor calls for all
        tensors.
        """
        if self._means and self._share.is_cuda:
            # torch._foreach_lerp_ does not take its weight from a tensor on the device
            apart = torch._foreach_sub(self._weights, self._means)
            torch._foreach_mul_(apart, self._share)
            torch._foreach_add_(self._means, apart)
        else:  # on a CPU the multi-tensor call is the same loop
            for mean, weight in zip(self._means, self._weights, strict=True):
                mean.lerp_(weight, self._share)

        if self._copies:
            torch._foreach_copy_(self._copies, self._buffers)

    @contextmanager
    def averaged_weights(self) -> Iterator[None]:
        """Context manager: the method holds its averaged weights inside, and its live weights again
        afterwards.
        """
        self._swap()
        try:
            yield
        finally:
            self._swap()

    def _swap(self) -> None:
        for name, live in self._live.items():
            live.data, self.average[name].data = self.average[name].data, live.data

    def state_dict(self) -> dict[str, Tensor]:
        """The averages by the names that parameters and buffers have in the method."""
        return dict(self.average)

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Tensor], updates: int) -> None:
        """Load averages saved by `state_dict`."""
        self.updates = updates
        for name, tensor in self.average.items():
            tensor.copy_(state[name])
