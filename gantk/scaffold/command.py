"""The command line of this package."""

from pathlib import Path

import click

from gantk.terminal import CommandGroup, overwrite_option

PARTS = "generator", "discriminator", "loss", "metric", "source", "format"


@click.group(
    cls=CommandGroup,
    short_help="Start a plugin of your own.",
    section="Extend",
    place=1,
    examples=["gantk new plugin my_gan"],
)
def new() -> None:
    "Write a package for a part of your own."


def _command(kind: str, part: str) -> click.Command:
    """The command `gantk new KIND NAME`."""

    def write(name, folder, overwrite) -> None:
        from gantk.scaffold.scaffold import new_plugin
        from gantk.terminal import say, say_next

        path = new_plugin(name, Path(folder), part, overwrite)
        say(f"written  {path}")
        say_next(f"pip install -e '{path}[dev]' && pytest {path}")

    place = click.Option(
        ["--folder"],
        default=".",
        metavar="DIR",
        help="Folder to create the package in. Default: here.",
    )
    words = (
        f"Write a package NAME with a {part}. It includes a contract test and all that it"
        " needs; its tests pass as written."
    )
    params = [click.Argument(["name"]), place]
    return overwrite_option(click.Command(kind, params=params, callback=write, help=words))


for _part in PARTS:
    new.add_command(_command(_part, _part))

new.add_command(_command("plugin", "method"))
