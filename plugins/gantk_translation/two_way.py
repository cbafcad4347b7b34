"""The base of two-way methods in plugins of others."""

from gantk_translation.cyclegan import CycleGAN as CycleMethod

__all__ = ["CycleMethod"]
