"""How plugins extend gantk: hookspecs (all hooks), registry (named parts), spec (options of a
part), loader.
"""
