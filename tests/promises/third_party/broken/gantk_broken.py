"""A package that wants something that is not there."""

import a_library_nobody_has  # noqa: F401
from gantk import hookimpl


@hookimpl
def gantk_register(add) -> None:
    """Never reached."""
    add.method("brokengan", "gantk_broken:BrokenGAN")
