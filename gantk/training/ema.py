"""An exponential moving average of the generators' weights: what inference uses."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class EMA:
    """Keeps `average = decay * average + (1 - decay) * weight` of a method's parameters (Karras et al. 2018).

    Early on the decay is min(decay, (1 + t) / (10 + t)), so that the first steps do not weigh for ever.
    Buffers of the averaged modules (batch-norm statistics) are copied, not averaged. `fused` false: one tensor after
    the other, for comparison.
    """

    def __init__(self, method: nn.Module, modules: Iterable[nn.Module], decay: float, fused: bool = True):
        self.decay, self.updates, self.fused = decay, 0, fused
        chosen = {id(tensor) for module in modules for tensor in [*module.parameters(), *module.buffers()]}
        parameters = {name: tensor for name, tensor in method.named_parameters() if id(tensor) in chosen}
        kept = method.state_dict().keys()  # what is not part of a checkpoint is not part of the average
        buffers = {name: tensor for name, tensor in method.named_buffers() if id(tensor) in chosen and name in kept}
        self._live = parameters | buffers
        self._averaged = list(parameters)
        self._copied = list(buffers)
        self.average = {name: tensor.detach().clone() for name, tensor in self._live.items()}
        device = next(iter(self._live.values())).device if self._live else None
        self._share = torch.zeros((), device=device)  # of the live weights in the next average

    def prepare(self, ahead: int = 0) -> None:
        """Set how far the next `average_in` goes, or one so many steps ahead: a recorded step cannot count."""
        count = self.updates + 1 + ahead
        self._share.fill_(1.0 - min(self.decay, (1 + count) / (10 + count)))

    @torch.no_grad()
    def average_in(self) -> None:
        """Take one step towards the live weights: on a GPU a few multi-tensor calls, whatever the number of tensors."""
        average, live = self._of(self.average, self._averaged), self._of(self._live, self._averaged)
        if self.fused and average and self._share.is_cuda:
            # no multi-tensor kernel interpolates by a share that lies on the device
            apart = torch._foreach_sub(live, average)
            torch._foreach_mul_(apart, self._share)
            torch._foreach_add_(average, apart)
        else:  # the multi-tensor call is this loop on a CPU
            for mean, weight in zip(average, live, strict=True):
                mean.lerp_(weight, self._share)
        if self._copied:
            torch._foreach_copy_(self._of(self.average, self._copied), self._of(self._live, self._copied))

    def update(self) -> None:
        """One step of the average."""
        self.prepare()
        self.average_in()
        self.updates += 1

    @contextmanager
    def applied(self) -> Iterator[None]:
        """The method with its averaged weights inside the `with`, with its live ones after it."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    def state_dict(self) -> dict[str, Tensor]:
        """The averages by the method's own names."""
        return dict(self.average)

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Tensor], updates: int) -> None:
        """Take over averages saved by `state_dict`."""
        self.updates = updates
        for name, tensor in self.average.items():
            tensor.copy_(state[name])

    def _swap(self) -> None:
        for name, live in self._live.items():
            live.data, self.average[name].data = self.average[name].data, live.data

    @staticmethod
    def _of(tensors: dict[str, Tensor], names: list[str]) -> list[Tensor]:
        return [tensors[name].detach() for name in names]
