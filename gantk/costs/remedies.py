"""What would make a training fit: the settings that lower its memory, each with the peak that it leads to."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from gantk.costs.budget import need_of, shape_of
from gantk.costs.forecast import Forecast, Way, spare_of
from gantk.errors import GantkError
from gantk.machine.runtime import Runtime
from gantk.recipe.load import Recipe


def remedies(recipe: Recipe, runtime: Runtime, found: Forecast) -> Iterator[Way]:
    """What lowers the peak, the mildest first; ends with the first that fits."""
    for settings in _combinations(recipe, runtime.device.type):
        model = recipe.override(settings).check()
        try:
            then = replace(found, need=need_of(model, runtime, shape=shape_of(model)))
            then = replace(then, spare=spare_of(model, found.device))
        except (GantkError, RuntimeError, ValueError):  # networks that do not take so small a size
            continue
        yield Way(settings, then.peak, then.fits)
        if then.fits:
            return


def _combinations(recipe: Recipe, device: str) -> Iterator[tuple[str, ...]]:
    train, data = recipe.check().train, recipe.check().data
    system = ('train.allocator="system"',) if device == "cpu" and train.allocator == "keep" else ()
    micro = ("train.microbatch=1",) if train.batch > 1 and train.microbatch != 1 else ()
    again = () if train.recompute else ("train.recompute=true",)
    for settings in dict.fromkeys((system, (*system, *micro), (*system, *again), (*system, *micro, *again))):
        if settings:
            yield settings
    whole = data.patch or data.size
    for halvings in (1, 2):
        sides = [side >> halvings for side in whole]
        if min(sides) < 8:
            return
        yield (*system, *micro, *again, f"data.{'patch' if data.dims == 3 or data.patch else 'size'}={sides}")
