"""`gantk report` on the command line."""

from __future__ import annotations

import click

from gantk.terminal import Command, overwrite_option


@click.command(
    "report",
    cls=Command,
    short_help="Write a run's report again, or compare several runs.",
    section="Look",
    place=1,
    examples=[
        "gantk report runs/first",
        "gantk report runs/first runs/second   # compare runs on the same patients",
        "gantk report runs/first --figures figures   # PNG, PDF, SVG, CSV and LaTeX for a paper",
    ],
)
@click.argument("runs", nargs=-1, required=True, metavar="RUN...")
@click.option("--out", metavar="FILE", help="Where a comparison goes. Default: comparison.html.")
@click.option(
    "--figures",
    metavar="DIR",
    help="Also write test images as PNG and PDF, losses as SVG, scores and differences as CSV and LaTeX.",
)
@click.option(
    "--rows",
    type=click.IntRange(min=1),
    default=4,
    metavar="N",
    help="Patients that a figure shows; of fewer patients, further images. Default: 4.",
)
@overwrite_option
def report_command(runs, out, figures, rows, overwrite) -> None:
    """Write RUN's report again; of several runs, one page that compares them.

    Nothing is trained or scored: the page is made of the files in the run folders. One that is
    still training, was stopped or killed has a page too.
    """
    from gantk.report.patients.comparing import write_report
    from gantk.terminal import say

    page = write_report(*runs, out=out, figures=figures, rows=rows, overwrite=overwrite, say=say)
    say(f"report   {page}")
