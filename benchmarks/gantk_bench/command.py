"""`gantk bench` on the command line: passes its options to `gantk_bench.bench`, which is imported
when it runs.
"""

import sys

import click
from rich.console import Console

from gantk.terminal import Command, device_option, json_option

KEY_VALUE = "KEY=VALUE"


@click.command(
    "bench",
    cls=Command,
    short_help="Train and score many recipes the same way.",
    section="Judge",
    place=2,
    examples=[
        "gantk bench --all --dry-run            # which rows, and how long they take",
        "gantk bench --all                      # every recipe, shortened",
        "gantk bench dualgan_t1t2 --seeds 3     # mean and spread over seeds",
        "gantk bench dualgan_t1t2 --grid method.local_ncc=0,1,5 --grid train.seed=0,1,2",
        "gantk bench --all --out runs/new --against runs/bench-quick/rows.jsonl",
        "gantk bench --suite gpu --minutes 8    # a GPU: speed and quality of every method",
    ],
)
@click.argument("names", nargs=-1, metavar="[RECIPE]...")
@click.option(
    "--all", "everything", is_flag=True, help="Run every recipe, those of installed plugins too."
)
@click.option(
    "--suite",
    default="quick",
    metavar="SUITE",
    help="Suite: quick, full, gpu, mr_to_ct, a plugin's suite, or a TOML file.",
)
@click.option(
    "--against",
    metavar="FILE",
    help="Compare with these rows. The exit code is 1 if a row got worse.",
)
@json_option("Write the rows as JSON too, one object on each line")
@click.option("--out", metavar="DIR", help="Bench folder. Default: runs/bench-SUITE.")
@click.option("--resume", is_flag=True, help="Skip the finished rows of the bench folder.")
@click.option(
    "--seeds",
    type=click.IntRange(min=1),
    metavar="N",
    help="Train with seeds 0 to N-1. Rows show mean and spread.",
)
@click.option(
    "--grid",
    multiple=True,
    metavar="KEY=V1,V2",
    help="Make a row for each value. Several --grid make all combinations.",
)
@click.option(
    "--set", "settings", multiple=True, metavar=KEY_VALUE, help="Override a key of every recipe."
)
@click.option(
    "--jobs",
    type=click.IntRange(min=1),
    metavar="N",
    help="Number of recipes that train at the same time.",
)
@click.option(
    "--limit",
    type=click.FloatRange(min=0, min_open=True),
    metavar="SECONDS",
    help="Time limit of one recipe.",
)
@click.option(
    "--minutes",
    type=click.FloatRange(min=0, min_open=True),
    metavar="M",
    help="Length of the suite gpu. What is left after timing all steps trains the first recipes. Default: 8.",
)
@click.option(
    "--hours",
    type=click.FloatRange(min=0, min_open=True),
    metavar="H",
    help="The same in hours: --hours 10 for an evening.",
)
@click.option("--tiny", is_flag=True, help="Suite gpu with networks of a few filters: a trial.")
@click.option(
    "--reference",
    metavar="DIR",
    help="Suite gpu: also time this checkout of the reference CycleGAN.",
)
@click.option("--data", metavar="PATH", help="Train every recipe on this folder or file.")
@click.option(
    "--dry-run", is_flag=True, help="Only print the rows and how long each took last time."
)
@device_option
def command(names, everything, json_file, settings, minutes, hours, **options) -> None:
    """Train and score recipes the same way and put them into one table.

    Each RECIPE (a name or a path) runs in its own process with a time limit. A recipe that fails is
    a row with the reason. The suite has the settings that all recipes share: quick takes minutes for
    each on two cores, full trains as published and needs a GPU. The suite gpu times the steps of each
    published network, as shares of the device's peak, and trains as many as fit into its minutes.
    The bench folder gets rows.jsonl, bench.md and the runs.

    At the end gantk prints what changed since the last bench in the same folder. The exit code is 1
    if a row failed, or if --against found a regression.
    """
    from gantk_bench.outcome import bench

    if minutes and hours:
        raise click.UsageError("--minutes and --hours cannot be combined.")
    outcome = bench(
        names,
        minutes=60 * hours if hours else minutes,
        all=everything,
        json=None if json_file == "-" else json_file,
        set=settings,
        console=Console(stderr=True) if json_file == "-" else None,
        **options,
    )
    if json_file == "-" and not options["dry_run"]:
        click.echo((outcome.folder / "rows.jsonl").read_text("utf-8"), nl=False)
    sys.exit(0 if outcome.good else 1)
