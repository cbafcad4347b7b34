"""Recipes: TOML tables with their defaults, checked before anything runs, and the parts that the core itself offers."""

import importlib

__all__ = ["Recipe", "all_recipes", "find_line", "find_recipe", "load_recipe", "resolved"]


def __getattr__(name: str):
    """The names above, loaded at first use."""
    if name in __all__:
        return getattr(importlib.import_module("gantk.recipe.load"), name)
    raise AttributeError(f"module 'gantk.recipe' has no attribute '{name}'")
