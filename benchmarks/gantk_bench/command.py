"""`gantk bench` on the command line: passes its options to `gantk_bench.bench`, which is imported
when it runs.
"""

import sys

import click
from rich.console import Console

from gantk.commands import Command
from gantk.terminal import json_option

KEY_VALUE = "KEY=VALUE"


@click.command(
    "bench",
    cls=Command,
    short_help="Train and score many recipes the same way.",
    section="Judge",
    place=2,
    examples=[
        "gantk bench --all                      # every recipe, shortened",
        "gantk bench dualgan_t1t2 --seeds 3     # mean and spread over seeds",
        "gantk bench dualgan_t1t2 --grid method.local_ncc=0,1,5 --grid train.seed=0,1,2",
        "gantk bench --all --out runs/new --against runs/bench-quick/rows.jsonl",
    ],
)
@click.argument("names", nargs=-1, metavar="[RECIPE]...")
@click.option(
    "--all", "everything", is_flag=True, help="Every recipe there is, third parties' too."
)
@click.option(
    "--suite", default="quick", metavar="SUITE", help="quick, full, a plugin's, or a TOML file."
)
@click.option(
    "--against", metavar="FILE", help="Hold the rows against these; exit code 1 where it got worse."
)
@json_option("Write the rows there too, one JSON object a line")
@click.option("--out", metavar="DIR", help="The bench folder. Default: runs/bench-SUITE.")
@click.option("--resume", is_flag=True, help="Skip the rows of the bench folder that are done.")
@click.option(
    "--seeds",
    type=click.IntRange(min=1),
    metavar="N",
    help="Train with seeds 0 to N-1: mean and spread.",
)
@click.option(
    "--grid",
    multiple=True,
    metavar="KEY=V1,V2",
    help="A row for each value; several make all combinations.",
)
@click.option(
    "--set", "settings", multiple=True, metavar=KEY_VALUE, help="Override a key of every recipe."
)
@click.option(
    "--jobs", type=click.IntRange(min=1), metavar="N", help="How many recipes train at once."
)
@click.option(
    "--limit",
    type=click.FloatRange(min=0, min_open=True),
    metavar="SECONDS",
    help="For one recipe.",
)
@click.option("--data", metavar="PATH", help="Train all of them on this folder or file instead.")
@click.option("--device", metavar="D", help="cpu, cuda, cuda:1, mps. Default: the best there is.")
def command(names, everything, json_file, settings, **options) -> None:
    """Train and score recipes the same way and put them into one table.

    Each RECIPE (a name or a path) runs in a process of its own with a time limit; one that fails is
    a row that says why. What all of them get is in the suite: quick takes minutes for each on two
    cores, full trains as published and needs a GPU. The bench folder then holds rows.jsonl,
    bench.md, bench.html and the runs.

    What changed since the last time in the same folder is said at the end. Exit code 1 where a row
    failed, or where --against found a regression.
    """
    from gantk_bench.running import bench

    outcome = bench(
        names,
        all=everything,
        json=None if json_file == "-" else json_file,
        set=settings,
        console=Console(stderr=True) if json_file == "-" else None,
        **options,
    )
    if json_file == "-":
        click.echo((outcome.folder / "rows.jsonl").read_text("utf-8"), nl=False)
    sys.exit(0 if outcome.good else 1)
