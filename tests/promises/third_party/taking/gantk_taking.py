"""A package that offers a method under a name that is taken."""

from gantk import hookimpl


@hookimpl
def gantk_register(add) -> None:
    """Two offers of one name: nobody has it, and whoever asks for it is told why."""
    add.method("cyclegan", "gantk_taking:CycleGAN")
