"""The engine: runs the phases of a method in turn, every step in the same way. It knows no method
by name.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor

from gantk.errors import GantkError, UserError, doing, one_line
from gantk.machine.device import keep_memory
from gantk.machine.runtime import Runtime
from gantk.method import (
    Batch,
    Losses,
    Method,
    Phase,
    Stage,
    check_losses,
    check_networks,
)
from gantk.recipe.tables import TrainTable
from gantk.runs.checkpoint import check_same
from gantk.runs.schemas import TrainingState
from gantk.training.ema import EMA
from gantk.training.optim import move_state, state_to_load


class Engine:
    """Trains one method for `steps` steps as a recipe's [train] table says; `step` counts the
    finished ones.

    `graph`, for tests, builds the object that records a step, in place of a CUDA graph. UserError
    if the table names a phase that the method does not have, or a network cannot take the size of a
    stage.
    """

    def __init__(
        self,
        method: Method,
        table: TrainTable,
        steps: int,
        runtime: Runtime,
        graph: Callable[[], Any] | None = None,
    ):
        self.method = method
        self.table = table
        self.steps = steps
        self.runtime = runtime
        self.schedule = table.schedule()
        self.step = 0
        self.phases = method.phases()
        self._check()
        self.parameters = {phase.name: trained_by(phase) for phase in self.phases}
        self.optimizers = {phase.name: self._optimizer(phase) for phase in self.phases}
        self.reductions = {name: runtime.reduction(p) for name, p in self.parameters.items()}
        self.base_lrs = {
            name: [float(group["lr"]) for group in optimizer.param_groups]
            for name, optimizer in self.optimizers.items()
        }

        averaged = [module for phase in self.phases if phase.ema for module in phase.updates]
        self.ema: EMA | None = None
        if table.ema and averaged:
            self.ema = EMA(method, averaged, table.ema)

        self._move_states()
        self._trained = list(dict.fromkeys(sum(self.parameters.values(), [])))
        for parameter in set(method.parameters()) - set(self._trained):
            parameter.requires_grad_(False)

        keep_memory(table.fast.keep_memory, runtime.device.type)
        self.notes: list[str] = []  # fallbacks to a slower step, with their reasons
        self.capture: Any = None  # called instead of `take`: the step as one CUDA graph
        if graph or (table.fast.cuda_graph and runtime.device.type == "cuda"):
            from gantk.training.cuda_graph import Capture

            self.capture = Capture(self, graph)
        # (step, names, losses) since `check_finite`
        self._unchecked: list[tuple[int, list[str], Tensor]] = []

    def fit(self, batch_at: Callable[[int, Stage], Batch]) -> Iterator[tuple[Stage, Batch, Losses]]:
        """Run the remaining steps; yields (stage, batch, losses) after each. Losses stay tensors on
        the device.
        """
        last = 0
        for stage in self.method.stages(self.steps):
            last += stage.steps
            begun = False
            if last > self.step and self.capture:
                self.capture.forget()

            while self.step < last:
                self.runtime.seed(self.table.seed, self.step)
                batch = batch_at(self.step, stage)
                if not begun:
                    self.method.begin(stage, self.runtime.main_batch(batch))
                    begun = True

                losses = self.train_step(batch)
                self.step += 1
                yield stage, batch, losses

    def train_step(self, batch: Batch) -> Losses:
        """Take one step: losses, gradients, reduction over ranks and update of every phase, then
        the moving average.

        Returns the losses as tensors on the device, without a synchronisation.
        """
        if not self.method.training:
            self.method.train()

        self.set_time(0)
        active = tuple(phase.name for phase in self.phases if self.step % phase.every == 0)
        losses = self.capture(active, batch) if self.capture else self.take(batch)
        if self.ema is not None:
            self.ema.updates += 1
        if not losses:
            return {}

        # a copy: a CUDA graph overwrites them in the next step
        values = torch.stack(list(losses.values()))
        self._unchecked.append((self.step + 1, list(losses), values))
        return dict(zip(losses, values.unbind(), strict=True))

    def set_time(self, ahead: int) -> None:
        """Set progress, learning rates and EMA share, as tensors, for this step or the one `ahead`
        steps later.
        """
        progress = min(1.0, (self.step + ahead) / max(1, self.steps))
        self.method.progress.fill_(progress)
        factor = self.schedule(progress)
        for name, optimizer in self.optimizers.items():
            for group, lr in zip(optimizer.param_groups, self.base_lrs[name], strict=True):
                if isinstance(group["lr"], Tensor):
                    group["lr"].fill_(lr * factor)
                else:
                    group["lr"] = lr * factor

        if self.ema is not None:
            self.ema.prepare(ahead)

    def take(self, batch: Batch) -> Losses:
        """Compute one step and return its losses: tensor operations only, so that a CUDA graph can
        record them.
        """
        losses: Losses = {}
        for phase in self.phases:
            if self.step % phase.every:
                continue

            updated = set(self.parameters[phase.name])
            # only what the phase updates gets gradients, which saves time
            for parameter in self._trained:
                parameter.requires_grad_(parameter in updated)

            before = len(losses)
            closure = partial(self._closure, phase, batch, losses)
            with doing(f"training the phase '{phase.name}', step {self.step + 1}"):
                # torch's stub wants a float, its optimizers take the loss
                self.optimizers[phase.name].step(closure)  # type: ignore[arg-type]
            if len(losses) == before:
                raise UserError(
                    f"the optimizer of phase '{phase.name}' learns nothing, because its"
                    " step(closure) never calls closure()",
                    where="train.optimizer",
                    remedy="begin step() with `loss = closure()`",
                )

        for parameter in self._trained:  # as before; what the method froze is not in this list
            parameter.requires_grad_(True)

        if self.ema is not None:
            self.ema.average_in()

        return losses

    def _closure(self, phase: Phase, batch: Batch, losses: Losses) -> Tensor:
        """Compute losses and gradients of a phase, in microbatches if the recipe sets them; returns
        their sum.
        """
        for parameter in self._trained:
            parameter.grad = None

        parts = _split(batch, self.table.microbatch)
        total = torch.zeros((), device=self.runtime.device)
        sums: Losses = {}
        for part, weight in parts:
            with torch.enable_grad(), self.runtime.autocast():
                part_losses = check_losses(self.method, phase, phase.loss(part))
                values = torch.stack([loss.float() for loss in part_losses.values()])
                part_total = values.sum() * weight

            part_total.backward()
            total += part_total.detach()
            for name, loss in part_losses.items():
                key = f"{phase.name}/{name}"
                sums[key] = sums.get(key, 0.0) + loss.detach().float() * weight

        self.reductions[phase.name].reduce()
        losses.update(sums)
        if len(parts) > 1:
            _join(batch, [part for part, _ in parts])
        # L-BFGS: all ranks need one loss
        if self.optimizers[phase.name].defaults.get("max_iter", 1) > 1:
            total = self.runtime.mean(total)

        return total

    def check_finite(self, saved: str) -> None:
        """GantkError if a loss since the last call was not finite: one device synchronisation for
        all these steps.
        """
        steps = self._unchecked
        self._unchecked = []
        totals = torch.stack([losses.sum() for _, _, losses in steps]).tolist() if steps else []
        for (step, names, losses), total in zip(steps, totals, strict=True):
            if math.isfinite(total):
                continue

            values = dict(zip(names, losses.tolist(), strict=True))
            bad = [name for name, loss in values.items() if not math.isfinite(loss)] or names
            # NaN reached later phases through it
            first_phase, _, _ = bad[0].partition("/")
            bad = [name for name in bad if name.startswith(first_phase)]
            exact = "" if self.runtime.precision == "fp32" else 'set train.precision = "fp32", '
            what = f"the loss {', '.join(bad)} is not finite at step {step}. {saved}"
            raise GantkError(
                f"{what} If it is a loss of your own, look for a division by 0, or a root or logarithm of"
                f" 0. Else lower train.optimizer.lr, {exact}or use a milder adversarial loss"
                ' (method.adversarial = "ls").'
            )

    def weights(self) -> dict[str, Tensor]:
        """The weights, live and averaged, with the names of a checkpoint."""
        average = self.ema.state_dict() if self.ema else {}
        averaged = {f"ema.{name}": tensor for name, tensor in average.items()}
        return self.method.state_dict(prefix="model.") | averaged

    def state_dict(self) -> dict:
        """Everything that a resume needs besides the method's weights: tensors, numbers, lists and
        dicts.
        """
        return {
            "step": self.step,
            "optimizers": {
                name: optimizer.state_dict() for name, optimizer in self.optimizers.items()
            },
            "ema_updates": self.ema.updates if self.ema else 0,
        }

    def load_state_dict(
        self, state: TrainingState, average: dict[str, Tensor], where: str = "a checkpoint"
    ) -> None:
        """Load a stored `state_dict`; `average` holds the moving average's tensors by name.

        UserError that names `where` the state is from, with nothing loaded, if it belongs to
        another training.
        """
        name = "step"
        ready = {}
        try:
            step = state.step
            updates = state.ema_updates
            if step is None or updates is None or not 0 <= updates <= step <= self.steps:
                raise ValueError(
                    f"step {step} of {self.steps} with {updates} updates of the moving average"
                )

            for phase in self.phases:
                name = f"optimizer of phase '{phase.name}'"
                saved = state.optimizers[phase.name]
                ready[phase.name] = state_to_load(self.optimizers[phase.name], saved)
        except Exception as error:  # a damaged state may raise any error
            raise UserError(
                f"this state does not belong to this training: {name}: {one_line(error)}",
                where=where,
                remedy="use another checkpoint of the run, and the recipe.toml of the run",
            ) from None

        if self.ema:
            check_same(self.ema.state_dict(), average, where)

        self.step = step
        for name, optimizer in self.optimizers.items():
            optimizer.load_state_dict(ready[name])

        self._move_states()
        if self.capture:
            self.capture.forget()
        if self.ema:
            self.ema.load_state_dict(average, updates)

    def _check(self) -> None:
        known = [phase.name for phase in self.phases]
        for name in self.table.optimizers:
            if name not in known:
                raise UserError(
                    f"the method has no phase '{name}'", where="train.optimizers", allowed=known
                )
        for stage in self.method.stages(self.steps):
            check_networks(self.method, stage.size)

    def _optimizer(self, phase: Phase) -> torch.optim.Optimizer:
        make = self.table.optimizers.get(phase.name) or phase.optimizer or self.table.optimizer
        with doing(f"building the optimizer of the phase '{phase.name}'"):
            return make(self.parameters[phase.name])

    def _move_states(self) -> None:
        for optimizer in self.optimizers.values():
            move_state(optimizer, self.runtime.device)


def trained_by(phase: Phase) -> list[torch.nn.Parameter]:
    """The parameters that a phase updates, without those that the method froze, such as a
    pretrained encoder's.
    """
    parameters = [p for module in phase.updates for p in module.parameters()]
    return list(dict.fromkeys(p for p in parameters if p.requires_grad))


def _split(batch: Batch, size: int | None) -> list[tuple[Batch, float]]:
    """Split a batch into microbatches of at most `size` images; returns each with its share of the
    images.
    """
    count = len(next(iter(batch.values())))
    if size is None or size >= count:
        return [(batch, 1.0)]

    split = {name: tensor.split(size) for name, tensor in batch.items() if len(tensor) == count}
    parts = []
    for tensors in zip(*split.values(), strict=True):
        part = Batch(zip(split, tensors, strict=True))
        parts.append((part, len(tensors[0]) / count))

    return parts


def _join(batch: Batch, parts: list[Batch]) -> None:
    """Concatenate tensors that a phase added or replaced in the microbatches into the batch, for
    later phases.
    """
    for name, tensor in parts[0].items():
        if name not in batch or tensor.data_ptr() != batch[name].data_ptr():
            batch[name] = torch.cat([part[name] for part in parts])
