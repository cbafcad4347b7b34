"""The command line of this package."""

import click

from gantk.terminal import (
    CommandGroup,
    device_option,
    json_option,
    line_printer,
    overwrite_option,
    say,
    write_json,
)

SPLIT = "Images of this split. Use `train` only to weight training images (`gantk study score --weights`)."
SETS = click.Choice(["test", "validation", "train"])


@click.group(
    "study",
    cls=CommandGroup,
    short_help="Let readers judge which images are real.",
    section="Judge",
    place=3,
    examples=[
        "gantk study new runs/first --pairs 60",
        "gantk study score runs/first/study answers/*.csv",
    ],
)
def group() -> None:
    """Ask readers which of two images is real, and score their answers."""


@group.command(
    "new",
    examples=[
        "gantk study new runs/first --pairs 60",
        "gantk study new --real SCANS --fake OTHERS --out study",
    ],
)
@click.argument("run", required=False)
@click.option("--real", metavar="DIR", help="Instead of RUN: a folder of real images.")
@click.option(
    "--fake",
    metavar="DIR",
    help="Instead of RUN: a folder of generated images, matched to real ones by file name.",
)
@click.option(
    "--pairs",
    type=click.IntRange(1, 999),
    default=60,
    show_default=True,
    help="Number of questions; all pairs if there are fewer.",
)
@click.option(
    "--to", metavar="DOMAIN", help="Domain to judge. Default: the recipe's second domain."
)
@click.option("--split", type=SETS, default="test", show_default=True, help=SPLIT)
@click.option("--out", metavar="DIR", help="Study folder. Default: RUN/study, or study.")
@overwrite_option
@device_option
def new(run, **options) -> None:
    """Write a page of pairs of images for the readers, and a key that says which are real."""
    from gantk_studies.reader_study.new import new_study

    new_study(run, **options, say=say)


@group.command("score", examples=["gantk study score runs/first/study answers/*.csv"])
@click.argument("study")
@click.argument("answers", nargs=-1, required=True)
@click.option(
    "--weights",
    metavar="FILE",
    help="Also write weights of training images, for data.weights of the next training.",
)
@json_option("Write the scores as JSON too")
def score(study, answers, weights, json_file, overwrite) -> None:
    """Score the answers of the readers of STUDY.

    ANSWERS are the CSV files that the readers saved. Of a study made with --split train, --weights
    writes how often the next training shows an image: 3 if every reader recognised its translation as
    synthetic, 1 if no reader did or it was not judged.
    """
    from gantk_studies.reader_study.score import score_study

    speak = line_printer(json_file)
    scores = score_study(study, answers, weights=weights, overwrite=overwrite, say=speak)
    write_json(json_file, scores, overwrite)
