"""The option --lr-find of `gantk run`; nothing heavy is imported before it is asked for."""

from __future__ import annotations

import functools
import json
import sys
from pathlib import Path

import click

WORDS = "Try learning rates from 1e-7 to 1 instead, optimizer by optimizer: a curve and a rate each."


def attach(command: click.Command) -> None:
    """Give the command `run` the option, once, however often plugins are asked."""
    if any(param.name == "lr_find" for param in command.params):
        return
    train = command.callback
    command.params.append(click.Option(["--lr-find"], is_flag=True, help=WORDS))

    def run(lr_find: bool, **options) -> None:
        if not lr_find:
            return train(**options)
        if options["trial"]:
            raise click.UsageError("--lr-find and --try are two questions: ask one after the other")
        names = "recipe", "data", "set", "profile", "device", "precision", "seed"
        return _find(options["json_file"], **{name: options[name] for name in names})

    command.callback = functools.update_wrapper(run, train)


def _find(json_file: str | None, **options) -> None:
    from gantk.terminal import progress_bar, say
    from gantk_lr_find.sweep import CAVEAT, drawn, find, how

    speak = functools.partial(say, stderr=True) if json_file == "-" else say
    with progress_bar() as progress:
        sweeps = find(**options, progress=progress)
    for sweep in sweeps:
        click.echo("\n".join(drawn(sweep)), err=json_file == "-")
        speak(f"rate     {sweep.phase}: {sweep.words()}")
    speak(f"note     {CAVEAT}")
    if any(sweep.suggested for sweep in sweeps):
        speak(f"next     gantk run {options['recipe']} {how(sweeps)}")
    text = json.dumps([sweep.table() for sweep in sweeps], indent=1) + "\n"
    if json_file == "-":
        sys.stdout.write(text)
    elif json_file:
        Path(json_file).write_text(text, "utf-8")
