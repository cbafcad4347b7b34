"""Recipes: tables (every key with its default), load (reads, overrides, checks), builtins (parts of
the core).
"""

__all__ = ["Recipe", "all_recipes", "find_line", "find_recipe", "load_recipe", "resolved"]


def __getattr__(name: str):
    """The names above, loaded at first use."""
    if name not in __all__:
        raise AttributeError(f"module 'gantk.recipe' has no attribute '{name}'")
    from gantk.recipe import load

    return getattr(load, name)
