"""The range test of Smith 2017, section 3.3: one optimizer's rate grows step by step, the others'
rate is 0.

If all trained, the generator would make the loss of a discriminator with a tiny learning rate
diverge.
"""

from __future__ import annotations

import copy
import json
import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np

from gantk.errors import UserError
from gantk.machine.runtime import start
from gantk.recipe.load import checked_recipe
from gantk.training.assemble import Parts, assemble
from gantk.training.loop import Training

LOW, HIGH, STEPS = 1e-7, 1.0, 100
# steps of the centred mean that smooths a loss; a running mean would lag, towards higher rates
SMOOTH = 9
TIMES = 4.0  # a loss has diverged when it has risen by this many times its first value
SIDE, ROWS = 60, 9  # width and height of a printed curve in characters
# names of losses of the game between two networks
ADVERSARIAL = re.compile(r"adversarial|d_|penalty|drift")
CAVEAT = (
    "these are losses of training batches over few steps from fresh weights, each network alone; an"
    " adversarial loss is a game's score, not a distance from the truth: it falls where one side"
    " wins. So a rate comes from the other losses, at their steepest descent; where there are none,"
    " it is a tenth of the rate at which the loss diverges. Both are upper bounds to start from: a"
    " long game usually wants less"
)


@dataclass
class Sweep:
    """The losses of one phase at each learning rate, and the rate chosen; `suggested` is None where
    none can be.
    """

    phase: str
    now: float  # the recipe's rate
    optimizer: dict  # its table in a recipe
    rates: list[float] = field(default_factory=list)
    losses: dict[str, list[float]] = field(default_factory=dict)  # by name, at each rate
    diverged: float | None = None
    suggested: float | None = None
    why: str = ""

    def judged(self) -> list[str]:
        """Names of the losses that choose the rate: all but the adversarial ones, or all where
        there are no others.
        """
        return [name for name in self.losses if not ADVERSARIAL.match(name)] or list(self.losses)

    def curve(self) -> np.ndarray:
        """The sum of the losses that choose the rate, at each rate, smoothed by a centred mean."""
        total = np.sum([self.losses[name] for name in self.judged()], axis=0)
        half = min(SMOOTH, len(total)) // 2
        return np.array([total[max(0, k - half) : k + half + 1].mean() for k in range(len(total))])

    def conclude(self) -> None:
        """Set `suggested` to the chosen rate and `why` to the reason."""
        names = " + ".join(self.judged())
        if all(map(ADVERSARIAL.match, self.losses)):
            self.suggested = self.diverged and self.diverged / 10
            self.why = (
                f"a tenth of the rate at which {names} diverges"
                if self.diverged
                else f"{names} never diverges"
            )
            return
        curve = self.curve()
        settled, lowest = len(curve) // 10, int(np.nanargmin(curve))
        fall = curve[: lowest + 1]
        if lowest <= settled + 2 or curve[settled] - curve[lowest] < 0.02 * abs(curve[settled]):
            self.why = f"{names} does not fall in {len(curve)} steps"
            return
        steepest = settled + int(np.argmin(np.gradient(fall)[settled:]))
        bound = self.diverged / 10 if self.diverged else math.inf
        self.suggested = min(self.rates[steepest], bound)
        self.why = (
            f"steepest descent of {names}"
            if self.rates[steepest] <= bound
            else "a tenth of where it diverges"
        )

    def words(self) -> str:
        """The result as one line for a terminal."""
        advice = f"try {self.suggested:.1e}" if self.suggested else "no rate can be read from this"
        limit = (
            f"diverges at {self.diverged:.1e}"
            if self.diverged
            else f"does not diverge up to {self.rates[-1]:.0e}"
        )
        return f"{advice} ({self.why}); {limit}; the recipe has {self.now:.1e}"

    def table(self) -> dict:
        """The result as a mapping for JSON."""
        return vars(self) | {
            "smoothed": [round(float(value), 6) for value in self.curve()],
            "by": self.judged(),
        }


def find(
    recipe: str,
    data=None,
    set=(),
    profile=None,
    device=None,
    precision=None,
    seed=None,
    progress: Callable = print,
) -> list[Sweep]:
    """Run one sweep for each phase of a recipe's method, each from the same fresh weights; no file
    is written.
    """
    # weights diverge; a graph would fix the rate
    own = ["train.ema=0", "train.fast.cuda_graph=false"]
    own += [f'train.precision="{precision}"'] if precision else []
    own += [f"train.seed={seed}"] if seed is not None else []
    _, model = checked_recipe(recipe, data, set, profile, own)
    runtime = start(device, model.train.precision, model.train.fast.channels_last)
    if runtime.world > 1:
        raise UserError(
            "rates are tried on one rank", where="--lr-find", remedy="start it without torchrun"
        )
    parts = assemble(model, runtime)
    if not parts.engine.steps:
        raise UserError("a training of no steps has no rate", where="train.steps")
    training, sweeps = Training(parts, None), []
    weights = {name: tensor.clone() for name, tensor in parts.method.state_dict().items()}
    state = copy.deepcopy(parts.engine.state_dict())
    parts.engine.schedule = lambda share: 1.0
    base = copy.deepcopy(parts.engine.base_lrs)
    try:
        for number, phase in enumerate(parts.engine.phases):
            parts.method.load_state_dict(weights)
            parts.engine.load_state_dict(copy.deepcopy(state), {})
            parts.engine.base_lrs = {name: [0.0] * len(rates) for name, rates in base.items()}
            rule = model.train.optimizers.get(phase.name) or model.train.optimizer
            sweep = Sweep(phase.name, base[phase.name][0], rule.table())
            for k in _grow(sweep, parts, training, phase.every):
                progress(
                    (number + k / STEPS) / len(parts.engine.phases), f"rates of the {phase.name}"
                )
            sweep.conclude()
            sweeps.append(sweep)
    finally:
        training.feed.close()
    return sweeps


def _grow(sweep: Sweep, parts: Parts, training: Training, every: int) -> Iterator[int]:
    """Train the steps of a sweep in the method's last stage until the losses diverge; yields the
    steps done.
    """
    engine, stages = parts.engine, parts.method.stages(parts.engine.steps)
    first, total = sum(stage.steps for stage in stages[:-1]), []
    first -= first % every
    for k in range(STEPS):
        rate = LOW * (HIGH / LOW) ** (k / (STEPS - 1))
        engine.base_lrs[sweep.phase] = [rate] * len(engine.base_lrs[sweep.phase])
        # a phase with `every` > 1: the steps between run the other phases
        for turn in range(every):
            engine.step = first + k * every + turn
            parts.runtime.seed(engine.table.seed, engine.step)
            batch = training.batch_at(engine.step, stages[-1])
            if k == turn == 0:
                parts.method.begin(stages[-1], batch)
            losses = engine.train_step(batch)
            values = {
                key: value for key, value in losses.items() if key.startswith(f"{sweep.phase}/")
            }
            if values:
                losses_by_name = {
                    name.partition("/")[2]: float(value) for name, value in values.items()
                }
        total.append(sum(losses_by_name.values()))
        if not math.isfinite(total[-1]):
            sweep.diverged = rate
            return
        sweep.rates.append(rate)
        for name, value in losses_by_name.items():
            sweep.losses.setdefault(name, []).append(value)
        usual = float(np.median(total[:10]))
        risen = float(np.mean(total[-3:])) - usual > TIMES * max(
            abs(usual), float(np.std(total[:10])), 1e-6
        )
        if k > 10 and risen:
            sweep.diverged = rate
            return
        yield k + 1


def drawn(sweep: Sweep) -> Iterator[str]:
    """Yield the lines of a text plot: loss over the logarithm of the rate; `^` marks the suggested
    rate.
    """
    curve = sweep.curve()
    low, high = (
        float(curve.min()),
        float(max(curve[: max(3, len(curve) // 3)].max(), np.percentile(curve, 75))),
    )
    columns = np.log(np.array(sweep.rates) / LOW) / math.log(HIGH / LOW) * (SIDE - 1)
    rows = np.clip((high - curve) / max(high - low, 1e-12), 0, 1) * (ROWS - 1)
    field_ = [[" "] * SIDE for _ in range(ROWS)]
    for column, row in zip(columns.round().astype(int), rows.round().astype(int), strict=True):
        field_[row][column] = "*"
    for number, line in enumerate(field_):
        mark = f"{high:.3g}" if number == 0 else f"{low:.3g}" if number == ROWS - 1 else ""
        yield f"{mark:>9} |{''.join(line).rstrip()}"
    axis = ["-"] * SIDE
    if sweep.suggested:
        axis[round(math.log(sweep.suggested / LOW) / math.log(HIGH / LOW) * (SIDE - 1))] = "^"
    yield f"{'':9} +{''.join(axis)}"
    yield f"{'':11}{LOW:<.0e}{f'learning rate of the {sweep.phase}':^{SIDE - 8}}{HIGH:.0f}"


def how(sweeps: list[Sweep]) -> str:
    """The `--set` options that set the suggested rates."""
    chosen = {
        s.phase: s.optimizer | {"lr": float(f"{s.suggested:.1e}")} for s in sweeps if s.suggested
    }
    tables = {
        phase: ", ".join(f"{k} = {json.dumps(v)}" for k, v in table.items())
        for phase, table in chosen.items()
    }
    return " ".join(
        f"--set 'train.optimizers.{phase}={{ {inside} }}'" for phase, inside in tables.items()
    )
