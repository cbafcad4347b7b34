"""An exponential moving average of the generators' weights: what inference uses."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class EMA:
    """Keeps `average = decay * average + (1 - decay) * weight` of a method's parameters (Karras et al. 2018).

    Early on the decay is min(decay, (1 + t) / (10 + t)), so that the first steps do not weigh for ever. Buffers of the
    averaged modules (batch-norm statistics) are copied, not averaged. `fused` false: one tensor after the other, for
    comparison. Whoever averages counts the `updates`.
    """

    def __init__(self, method: nn.Module, modules: Iterable[nn.Module], decay: float, fused: bool = True):
        self.decay, self.updates, self.fused = decay, 0, fused
        chosen = {id(tensor) for module in modules for tensor in [*module.parameters(), *module.buffers()]}
        kept = method.state_dict().keys()  # what is not part of a checkpoint is not part of the average
        weights = {name: tensor for name, tensor in method.named_parameters() if id(tensor) in chosen}
        buffers = {name: tensor for name, tensor in method.named_buffers() if id(tensor) in chosen and name in kept}
        self._live = weights | buffers
        self.average = {name: tensor.detach().clone() for name, tensor in self._live.items()}
        self._weights, self._means = list(weights.values()), [self.average[name] for name in weights]
        self._buffers, self._copies = list(buffers.values()), [self.average[name] for name in buffers]
        self._share = torch.zeros((), device=next(method.parameters()).device)  # of the live weights in the next one

    def prepare(self, ahead: int = 0) -> None:
        """Set how far the next `average_in` goes, or one so many steps ahead: a recorded step cannot count."""
        count = self.updates + 1 + ahead
        self._share.fill_(1.0 - min(self.decay, (1 + count) / (10 + count)))

    @torch.no_grad()
    def average_in(self) -> None:
        """Take one step towards the live weights: on a GPU a few multi-tensor calls, whatever the number of tensors."""
        if self.fused and self._means and self._share.is_cuda:
            # no multi-tensor kernel interpolates by a share that lies on the device
            apart = torch._foreach_sub(self._weights, self._means)
            torch._foreach_mul_(apart, self._share)
            torch._foreach_add_(self._means, apart)
        else:  # the multi-tensor call is this loop on a CPU
            for mean, weight in zip(self._means, self._weights, strict=True):
                mean.lerp_(weight, self._share)
        if self._copies:
            torch._foreach_copy_(self._copies, self._buffers)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """The method with its averaged weights inside the `with`, with its live ones after it."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    def _swap(self) -> None:
        for name, live in self._live.items():
            live.data, self.average[name].data = self.average[name].data, live.data

    def state_dict(self) -> dict[str, Tensor]:
        """The averages by the method's own names."""
        return dict(self.average)

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Tensor], updates: int) -> None:
        """Take over averages saved by `state_dict`."""
        self.updates = updates
        for name, tensor in self.average.items():
            tensor.copy_(state[name])
