"""The option --folds of `gantk run`."""

import click

HELP = "Cross-validate: K runs in fold-0, fold-1 ... of --out. Repeat the command to resume."
# options of `gantk run` that a cross-validation passes on to its trainings
PASSED_ON = (
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


def add_folds(cli: click.Group) -> None:
    """Add --folds to `gantk run`."""
    option = click.Option(["--folds"], type=int, metavar="K", help=HELP)
    cli.commands["run"].add_mode(option, _cross_validate)


def _cross_validate(recipe: str, folds: int, **options) -> None:
    from gantk.terminal import say
    from gantk_cluster.folds.cross_validation import cross_validate

    for name in ("try", "json_file", "profile_steps"):
        if options.pop(name, None):
            flag = name.removesuffix("_file").replace("_", "-")
            raise click.UsageError(
                f"--folds and --{flag} cannot be combined: leave one of them out"
            )
    cross_validate(recipe, folds, **{name: options[name] for name in PASSED_ON}, say=say)
