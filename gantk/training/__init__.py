"""Training: from a checked recipe to checkpoints. `gantk.training(...)` calls `begin.training`.

Read first: begin (`training`: from a recipe to a `Training`), then loop (the steps and what is due
between them), engine (one step) and assemble (builds data, method, optimizers). optim holds
optimizers and schedules of the learning rate, cuda_graph a step as one graph. Imports nothing
of planning, the API or the command line.
"""

import sys
from types import ModuleType
from typing import Any


class _Room(ModuleType):
    """This package, which can be called: `gantk.training` names it as soon as it is imported."""

    def __call__(self, *recipe: Any, **options: Any) -> Any:
        from gantk.guest import as_guest
        from gantk.training.begin import training

        return as_guest(training)(*recipe, **options)


sys.modules[__name__].__class__ = _Room
