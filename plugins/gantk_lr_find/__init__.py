"""`gantk run RECIPE --lr-find` as a gantk plugin: a learning-rate range test (Smith 2017) of each
optimizer.
"""

import click

from gantk.errors import argument
from gantk.plugin.hookspecs import hookimpl
from gantk.terminal import add_question

WORDS = (
    "Try learning rates from 1e-7 to 1 instead, optimizer by optimizer: a curve and a rate each."
)
ASKED = "recipe", "data", "set", "profile", "device", "precision", "seed"


def find_rates(json_file: str | None, **options) -> None:
    """Run the range test; prints the curve and the suggested rate of each phase."""
    from gantk.terminal import line_printer, progress_bar, write_json
    from gantk_lr_find.sweep import CAVEAT, drawn, find, how

    speak = line_printer(json_file)
    with progress_bar() as progress:
        sweeps = find(**{name: options[name] for name in ASKED}, progress=progress)
    for sweep in sweeps:
        click.echo("\n".join(drawn(sweep)), err=json_file == "-")
        speak(f"rate     {sweep.phase}: {sweep.words()}")
    speak(f"note     {CAVEAT}")
    if any(sweep.suggested for sweep in sweeps):
        speak(f"next     gantk run {argument(options['recipe'])} {how(sweeps)}")
    write_json(json_file, [sweep.table() for sweep in sweeps])


@hookimpl
def gantk_commands(cli) -> None:
    """Add the option --lr-find to `gantk run`."""
    add_question(cli.commands["run"], "--lr-find", WORDS, find_rates)
