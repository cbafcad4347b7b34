"""The models that ship with gantk: a folder each, made by `gantk pack`, at most 4 MB."""
