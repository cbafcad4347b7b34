"""The commands `gantk list`, `show`, `recipes` and `plugins`."""
