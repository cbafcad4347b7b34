"""Answers "can I trust it for my patient?": whether a scan fits the training data, how good the model
is on people whom it has not seen, and the page of the documentation with its pictures.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from gantk.errors import UserError
from gantk.files import read_file
from gantk.inference.frame import FIT, FITS
from gantk.metrics.names import join_words, title_of
from gantk.runs.models import scores_of
from gantk.runs.schemas import read_results

if TYPE_CHECKING:
    from gantk.metrics.verdict import Tone
    from gantk.runs.folder import RunFolder

# a note of `fit_words`, of one scan or of some: "T1: fits the training data: no; lesions are not judged
# (2 of 3 images: a.nii, b.nii)"
SAID_FIT = rf"(?:.*: )?{FIT}: ({'|'.join(FITS)})(?:; .*?)?( \(\d+ of \d+ .*)?"
PAGE = "trust.md"
PLACES = {  # in a checkout; a wheel has them in the folder `trust_page` beside this file
    PAGE: "docs/background",
    "real-scans.jpg": "benchmarks/results",
    "failure.png": "docs/pictures",
    "missing-contrasts.jpg": "docs/pictures",
}
PICTURES = [name for name in PLACES if name != PAGE]
LINK_TO_PAGE = r"\[([^]]+)\]\((?!#)[^)]+\)"  # to a page that is not here


class Answer(NamedTuple):
    """The answer for one scan."""

    fits: str  # one of FITS
    reasons: list[tuple[str, str]]  # (warning or note, text): in what the scan differs
    unseen: str  # how good the model is on people whom it has not seen; "" where that is unknown
    tone: Tone = ""  # of that sentence, as in the report


def answer_for(notes: Iterable[tuple[str, str]], unseen: str, tone: Tone = "") -> Answer:
    """Sort the notes about a scan; of several scans the worst answer counts, and each one's is a
    reason.
    """
    fits = []
    reasons = []
    for kind, text in notes:
        found = re.fullmatch(SAID_FIT, text)
        if found:
            fits.append(found[1])
            if found[2]:
                reasons.append((kind, text))
        elif text not in unseen:
            reasons.append((kind, text))
    return Answer(max(fits, key=FITS.index, default="not recorded"), reasons, unseen, tone)


def quality_on_unseen(run: RunFolder, source: str, target: str) -> tuple[str, Tone]:
    """How good a model is on people whom it has not seen, in one sentence, "" where it has no scores;
    and the tone of the report's sentence.

    The table of a packed model's card counts before metrics.json, because it can have more people.
    """
    tone: Tone = ""
    sentence, psnr = _of_card(scores_of(run.path), f"{source} to {target}")
    if sentence:
        from gantk.metrics.rows import lost_sentence  # imports torch

        lost = lost_sentence(run)
        if lost:
            sentence += f" {lost}"
            tone = "bad"
    else:
        sentence, psnr, tone = _of_run(run, f"{source} -> {target}")
    if psnr is not None:
        share = error_share(psnr)
        sentence += (
            f" {psnr:.1f} dB is a typical error of {share} of the gray range on them; the error on"
            " this scan is not known."
        )
    return sentence, tone


def error_share(psnr: float) -> str:
    """The root mean square error that a PSNR in dB stands for, in % of the range: 20 dB is 10 %."""
    return f"{100 * 10 ** (-psnr / 20):.0f} %"


def _of_card(table: list[list[str]], direction: str) -> tuple[str, float | None]:
    """The sentence and the PSNR of a direction in the mean row of a card's table, whose cells are
    PSNR / SSIM; the columns up to the next direction are baselines.
    """

    people = re.fullmatch(r"mean of (\d+) people", table[-1][0]) if table else None
    if people is None or direction not in table[0]:
        return "", None

    place = table[0].index(direction)
    columns = [*zip(table[0], table[-1], strict=False)]
    rivals = takewhile(lambda column: " to " not in column[0], columns[place + 1 :])
    against = [f"{name} {cell.partition(' / ')[0]} dB" for name, cell in rivals]
    psnr, _, ssim = table[-1][place].partition(" / ")
    try:
        value = float(psnr)
    except ValueError:  # no score of this direction
        return "", None

    sentence = f"On {people[1]} people whom the model had not seen: PSNR {psnr} dB, SSIM {ssim}"
    if against:
        sentence += f" ({join_words(against)})"
    cells = (row[place].partition(" / ")[0] for row in table[1:-1] if place < len(row))
    single = [float(cell) for cell in cells if re.fullmatch(r"\d+(\.\d+)?", cell)]
    if single:
        sentence += f"; single volumes: {min(single):.1f} to {max(single):.1f} dB"
    return f"{sentence}.", value


def _of_run(run: RunFolder, direction: str) -> tuple[str, float | None, Tone]:
    """The report's sentence on a run, the PSNR of a direction, after the post-steps if there are any,
    and the sentence's tone.
    """
    from gantk.metrics.rows import judgement  # imports torch

    try:
        results = read_results(run.path)
    except UserError:  # it was never scored
        return "", None, ""
    psnr = None
    for key, scores in results.metrics.items():
        if title_of(key, results.domains).startswith(direction) and "psnr" in scores:
            psnr = scores["psnr"].value
    sentence, tone = judgement(run)
    return sentence, psnr, tone


def page_file(name: str) -> Path:
    """Where the documentation's page on trust, or a picture of it, lies."""
    inside = Path(__file__).parent / "trust_page" / name
    return inside if inside.exists() else Path(__file__).parents[2] / PLACES[name] / name


def page_text(files: str) -> str:
    """The documentation's page on trust in Markdown, without links to other pages; `files` is the
    start of the addresses of its pictures.
    """
    text = read_file(page_file(PAGE)).decode()
    for name in PICTURES:
        text = re.sub(rf"(!\[[^]]*\]\()[^)]*/{name}\)", rf"\1{files}{page_file(name)})", text)
    return re.sub(rf"(?<!!){LINK_TO_PAGE}", r"\1", text)
