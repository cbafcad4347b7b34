"""Recipes: TOML files that say what is trained, on what, and how it is scored.

Read first: tables (every key with its default), then load (reads, overrides, checks). The names of
the core's parts are in gantk.plugin.builtins.
Imports no room but plugin and those below it: a recipe is checked before anything is loaded.
"""

__all__ = ["Recipe", "all_recipes", "find_line", "find_recipe", "load_recipe", "resolved"]


def __getattr__(name: str):
    """The names above, loaded at first use."""
    if name not in __all__:
        raise AttributeError(f"module 'gantk.recipe' has no attribute '{name}'")
    from gantk.recipe import load

    return getattr(load, name)
