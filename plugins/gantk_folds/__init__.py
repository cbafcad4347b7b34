"""`gantk run RECIPE --folds K` as a gantk plugin: k-fold cross-validation in one command."""

import functools

import click

from gantk.plugin.hookspecs import hookimpl

WORDS = (
    "Train K runs, each tested on other patients, in fold-0, fold-1 ... of --out; the same command"
    " goes on."
)
OPTION = click.Option(["--folds"], type=int, metavar="K", help=WORDS)


@hookimpl
def gantk_commands(cli) -> None:
    """Add the option --folds to `gantk run`."""
    command = cli.commands["run"]
    if OPTION in command.params:
        return
    train = command.callback

    def run(recipe, folds=None, **options):
        if folds is None:
            return train(recipe, **options)
        from gantk.terminal import say
        from gantk_folds.cross_validation import cross_validate

        asked = [
            name
            for name in ("try", "lr_find", "json_file", "profile_steps")
            if options.pop(name, None)
        ]
        if asked:
            raise click.UsageError(
                f"--folds trains: leave --{asked[0].replace('_', '-')} out, or --folds"
            )
        known = (
            "data",
            "set",
            "profile",
            "out",
            "device",
            "precision",
            "seed",
            "allow_leakage",
            "track",
        )
        cross_validate(recipe, folds, **{name: options[name] for name in known}, say=say)

    command.callback = functools.update_wrapper(run, train)
    command.params.append(OPTION)
