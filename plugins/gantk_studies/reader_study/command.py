"""The command line of this package."""

import click

from gantk.commands import CommandGroup
from gantk.terminal import json_option, line_printer, say, write_json

KIND = "Which of two is real; whether one is; how real one looks, from 1 to 5."

SPLIT = "Whose images; `train` for weights of a next training, which is no judgement of the model."

SETS = click.Choice(["test", "validation", "train"])


@click.group(
    "study",
    cls=CommandGroup,
    short_help="Let readers judge which images are real.",
    section="Judge",
    place=3,
    examples=[
        "gantk study new runs/first --pairs 60 --readers 3",
        "gantk study score runs/first/study/2afc answers/*.json",
    ],
)
def group() -> None:
    """Ask readers which images are real, and score their answers."""


@group.command("new")
@click.argument("run", required=False)
@click.option("--real", metavar="DIR", help="In place of RUN: a folder of real images ...")
@click.option(
    "--fake",
    metavar="DIR",
    help="... and one of made images, matched by file name where names are alike.",
)
@click.option(
    "--kind",
    type=click.Choice(["2afc", "yesno", "rating"]),
    default="2afc",
    show_default=True,
    help=KIND,
)
@click.option(
    "--pairs",
    type=click.IntRange(1, 999),
    help="Real images, and made ones. Default: 60, or all there are.",
)
@click.option(
    "--readers", type=click.IntRange(1, 99), default=3, show_default=True, help="Pages to write."
)
@click.option(
    "--to", metavar="DOMAIN", help="Which domain is judged. Default: the recipe's second."
)
@click.option("--split", type=SETS, default="test", show_default=True, help=SPLIT)
@click.option("--out", metavar="DIR", help="Default: RUN/study/KIND, or study.")
@click.option(
    "--seed",
    type=click.IntRange(0),
    help="Draws images and order. Default: a secret one, kept in the key.",
)
@click.option("--device", metavar="D", help="cpu, cuda, cuda:1, mps. Default: the best there is.")
def new(run, **options) -> None:
    """Write a page for each reader, and the key that says which images are real.

    \b
    gantk study new runs/first --pairs 60 --readers 3
    gantk study new --real SCANS --fake OTHERS --kind rating --out study
    """
    from gantk_studies.reader_study.making import new_study

    new_study(run, **options, say=say)


@group.command("score")
@click.argument("study")
@click.argument("answers", nargs=-1, required=True)
@json_option("Write the scores as JSON too")
def score(study, answers, json_file) -> None:
    """Score the files that the readers of STUDY saved, into STUDY/scores.json and STUDY/scores.md.

    A file that is damaged, or of another study, is named and left out: gantk study score STUDY
    answers/*.json
    """
    from gantk_studies.reader_study.scoring import score_study

    write_json(json_file, score_study(study, answers, say=line_printer(json_file)))


@group.command("weights")
@click.argument("study")
@click.argument("answers", nargs=-1, required=True)
@click.option("--out", metavar="FILE", default="weights.csv", show_default=True)
def weights(study, answers, out) -> None:
    """Write how often a next training is to show the training images of STUDY (made with --split
    train).

    1 where nobody judged an image, or nobody told what was made of it; 3 where every reader did.
    """
    from gantk_studies.reader_study.answers import write_weights

    write_weights(study, answers, out, say=say)
