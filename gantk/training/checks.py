"""The checks before a training starts: gantk's own, then those of plugins."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gantk.plugin.loader import load

if TYPE_CHECKING:
    from gantk.recipe.tables import Model


def check_training(model: Model) -> None:
    """Raise a UserError to refuse a new or resumed training: what the core knows, then plugins."""
    # imported here: the command line reads this module, and these import torch
    from gantk.metrics.statistics.subgroups import check_columns
    from gantk.training.cost import require_memory

    if model.evaluate.by:
        check_columns(model)

    load().hook.gantk_before_training(model=model)
    require_memory(model)
