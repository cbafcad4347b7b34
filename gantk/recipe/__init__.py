"""Recipes: TOML tables with their defaults, checked before anything runs, and the parts that the core itself offers."""


def __getattr__(name: str):
    """`Recipe` and `load_recipe`, loaded at first use."""
    if name in ("Recipe", "load_recipe"):
        from gantk.recipe import load

        return getattr(load, name)
    raise AttributeError(f"module 'gantk.recipe' has no attribute '{name}'")
