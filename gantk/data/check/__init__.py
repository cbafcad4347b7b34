"""`gantk data check`: what images are and what is wrong with them, before anything is trained."""

from gantk.data.check.check import check

__all__ = ["check"]
