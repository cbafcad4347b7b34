"""The question that gantk asks where names can be read in several ways, or in none; and one line that
says what a reading means.
"""

from __future__ import annotations

import json
import shlex
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Literal

from gantk.catalog.catalog import Row
from gantk.catalog.contrasts import ContrastWords, in_usual_order
from gantk.catalog.layouts import Reading, Unclear, pairs_of, read
from gantk.catalog.masks import mask_word
from gantk.errors import UserError, count_noun, printable

PLURALS = {
    "mask": "masks",
    "copy by name": "copies by name",
    "template": "templates",
    "localizer": "localizers",
    "derivative": "derivatives",
}
MAX_REASONS = 4


class LayoutQuestion(UserError):
    """Names do not say whose the images are, or what they show.

    Attributes:
        readings: the likeliest ones, at most three.
        doubted: readings of all images, which may be wrong.
        contrasts: those that are asked for; (): any.
        answers: options of the command line, each with what they give in words; the first is 1.
    """

    label = "question"

    def __init__(
        self,
        folder: str,
        unclear: Unclear,
        images: Sequence[str],
        left_out: Mapping[str, str],
        contrasts: Sequence[str],
        words: ContrastWords,
    ):
        from gantk.catalog.propose import propose

        quoted = ", ".join(f"'{path}'" for path in dict.fromkeys([*images[:2], *images[-1:]]))
        what = f"the {count_noun(images, 'image')} in '{folder}' ({quoted}) {unclear.why}"
        super().__init__(what, where="--layout")
        self.contrasts = contrasts
        self.doubted = [reading for reading in unclear.readings if not reading.left_out]
        self.readings = propose(unclear.readings, images, left_out, contrasts, words)
        self.answers = [
            (["--layout", each.layout], in_words(each.rows, each.why_left_out()))
            for each in self.readings
        ]
        self.advice = []
        if not self.readings:
            named = [name for name in contrasts if name != "images"] or ["T1", "T2"]
            settings = [f"--set 'data.words.{name}=[\"WORD\"]'" for name in named]
            self.advice.append(
                f"  No name says {' or '.join(named)}. Say which words of names do: {' '.join(settings)}"
            )
        word, others = mask_word(images, words)
        found = read(others, contrasts, words) if word and contrasts else None
        if isinstance(found, Reading):
            gives = in_words(found.rows, [*found.why_left_out(), *left_out.values()])
            masks = count_noun(len(images) - len(others), "mask")
            gives = f"if these are masks of lesions: {gives}; {masks}"
            self.answers.insert(0, (["--set", f"data.source.mask={word}"], gives))
        elif contrasts and "of no contrast" in what:
            self.advice.append(
                "Masks of lesions are named by --set data.source.mask=WORD, a word of their file names."
            )
        self.advice.append(
            "Give the line that is right, one of your own, or a table to complete:"
            f" gantk data check {shlex.quote(folder)} --table scans.csv"
        )

    def known(self, cell: Literal["subject", "contrast"]) -> dict[str, str]:
        """Path below the folder -> patient or contrast, of the images of which all readings that know
        these say the same.
        """
        said = [
            {(row.scan.name, getattr(row, cell)) for row in rows if getattr(row, cell)}
            for rows in ((*each.rows, *each.others) for each in self.readings)
        ]
        return dict(set.intersection(*filter(None, said))) if any(said) else {}

    def answer(self, choice: str) -> list[str]:
        """The options of the command line for a reading by its number, from 1, or for another line."""
        offered = {str(number): options for number, (options, _) in enumerate(self.answers, 1)}
        return offered.get(choice, ["--layout", choice])

    def on_command_line(self, numbered: bool = False) -> str:
        """The question; `numbered` for a terminal, on which a number answers it."""
        lines = [f"{self.what}."]
        for number, (options, gives) in enumerate(self.answers, start=1):
            mark = f"{number}  " if numbered else ""
            lines += [f"  {mark}{shlex.join(options)}", f"      {gives}"]
        return printable("\n".join([*lines, *self.advice]))

    __str__ = on_command_line


def in_words(
    rows: Sequence[Row], left_out: Sequence[str] = (), pairs: int | None = None, by: str = ""
) -> str:
    """What rows are: `T1 40, T2 40; 40 patients; 40 pairs; 12 left out (8 masks, 4 of _brain)`, the
    last by what each that is `left_out` is. `pairs`: how many there are, where more than names
    decides; `by`: what said so, such as a layout, which stands last.
    """
    contrasts = Counter(row.contrast or "images" for row in rows)
    labels = {row.label for row in rows} - {""}
    parts = [", ".join(f"{name} {contrasts[name]}" for name in in_usual_order(contrasts))]
    parts += _people_in_words(rows)
    if len(contrasts) > 1:
        count = len(pairs_of(rows)) if pairs is None else pairs
        parts.append(count_noun(count, "pair") if count else "no pairs")
    cells = Counter(row.cell for row in rows if row.subject and row.is_volume)
    several = {subject for (_, subject, *_), count in cells.items() if count > 1}
    if several:
        parts.append(
            f"{count_noun(several, 'patient')} with several files of one contrast and visit"
        )
    if labels:
        parts.append(f"classes {', '.join(sorted(labels))}")
    if left_out:
        parts.append(f"{len(left_out)} left out ({_count_kinds(left_out)})")
    if by:
        how = by.replace("{running}", "{running} (an image number and no patient)")
        parts.append(f"by {how}")
    return "; ".join(parts)


def _people_in_words(rows: Sequence[Row]) -> Iterator[str]:
    """Yield how many patients rows are of, and how many visits, where these are known."""
    patients = {row.subject for row in rows} - {""}
    visits = {(row.subject, row.session) for row in rows if row.session}
    yield count_noun(patients, "patient") if patients else "patients unknown"
    if visits:
        yield count_noun(visits, "visit")


def _count_kinds(left_out: Sequence[str]) -> str:
    """How many images are left out of each kind, the most frequent first: `8 masks, 4 of _brain`."""
    kinds = Counter(left_out).most_common()
    if len(kinds) == 1:
        ((what, count),) = kinds
        return PLURALS.get(what, what) if count > 1 else what
    shown = [
        f"{count} {PLURALS.get(what, what) if count > 1 else what}"
        for what, count in kinds[:MAX_REASONS]
    ]
    if others := sum(count for _, count in kinds[MAX_REASONS:]):
        shown.append(f"{others} more")
    return ", ".join(shown)


def rows_in_words(how: str, rows: Iterable[Row], pairs: int | None = None) -> str:
    """A line on rows that were read by `how`, such as "DICOM headers"."""
    rows = list(rows)
    images = [row for row in rows if row.kind == "image"]
    left_out = [row.why for row in rows if row.kind != "image"]
    return in_words(images, left_out, pairs, how)


def as_setting(layout: str) -> str:
    """The setting of a recipe that gives a layout."""
    return f"data.source.layout={json.dumps(layout)}"
