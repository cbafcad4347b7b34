"""The checks before a training starts: gantk's own, then those of plugins."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gantk.plugin.callbacks import Hooks

if TYPE_CHECKING:
    from gantk.recipe.tables import CheckedRecipe


def check_training(model: CheckedRecipe, hooks: Hooks | None = None) -> None:
    """Raise a UserError to refuse a new or resumed training: what the core knows, then hooks."""
    # imported here: the command line reads this module, and these import torch
    from gantk.training.memory import require_memory

    (hooks or Hooks()).gantk_before_training(model=model)
    require_memory(model)
