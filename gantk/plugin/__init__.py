"""How plugins extend gantk: hooks, the registry of named parts, option schemas read from signatures, the loader."""
