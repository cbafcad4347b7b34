"""The question that gantk asks where names can be read in several ways, or in none; and one line that
says what a reading means.
"""

from __future__ import annotations

import json
import shlex
from collections import Counter
from collections.abc import Callable, Iterable, Sequence

from gantk.catalog.catalog import Row
from gantk.catalog.contrasts import ContrastWords
from gantk.catalog.layouts import Entry, Reading, Unclear
from gantk.errors import UserError, count_noun, printable
from gantk.formats.files import is_volume

PLURALS = {"mask": "masks", "copy": "copies"} | {
    name: f"{name}s" for name in ("template", "localizer", "derivative")
}
MAX_REASONS = 4


class LayoutQuestion(UserError):
    """Names do not say whose the images are, or what they show.

    Attributes:
        readings: the likeliest ones, at most three.
        doubted: readings of all images, which may be wrong.
        option: the option of the command line that answers.
    """

    def __init__(
        self,
        folder: str,
        unclear: Unclear,
        contrasts: Sequence[str],
        words: ContrastWords,
        option: str = "--layout",
    ):
        from gantk.catalog.propose import propose

        images = unclear.images
        quoted = ", ".join(f"'{path}'" for path in dict.fromkeys([*images[:2], *images[-1:]]))
        what = f"the {count_noun(images, 'image')} in '{folder}' ({quoted}) {unclear.why}"
        super().__init__(what, where=option)
        self.option = option
        self.doubted = [reading for reading in unclear.readings if not reading.left_out]
        self.readings = propose(unclear, contrasts, words)
        self.end = (
            "Give the line that is right, one of your own, or a table to complete:"
            f" gantk data check {shlex.quote(folder)} --table scans.csv"
        )

    def answer(self, number: int) -> list[str]:
        """The options of the command line that choose a reading, counted from 1."""
        reading = self.readings[number - 1]
        settings = [option for each in reading.settings for option in ("--set", each)]
        return [self.option, reading.layout, *settings]

    def on_command_line(self) -> str:
        return self._text_with(lambda number: "")

    def in_numbers(self) -> str:
        """The question for a terminal, on which a number answers it."""
        return self._text_with(lambda number: f"{number}  ")

    def _text_with(self, mark: Callable[[int], str]) -> str:
        lines = [printable(f"{self.what}.")]
        for number, reading in enumerate(self.readings, start=1):
            lines.append(printable(f"  {mark(number)}{shlex.join(self.answer(number))}"))
            lines.append(printable(f"      {in_words(reading)}"))
        if not self.readings:
            lines.append("  No name says which image is what.")
        return "\n".join([*lines, printable(self.end)])

    __str__ = on_command_line


def in_words(reading: Reading, pairs: int | None = None) -> str:
    """What a reading means: `T1 40, T2 40; 40 patients; 40 pairs; 12 left out (8 masks, 4 of
    _brain)`. `pairs`: how many there are, where more than names decides.
    """
    entries = reading.entries
    contrasts = Counter(entry.contrast or "images" for entry in entries)
    labels = {entry.label for entry in entries} - {""}
    parts = [", ".join(f"{name} {count}" for name, count in contrasts.most_common())]
    parts += _people_in_words(entries)
    if len(contrasts) > 1:
        count = len(reading.pairs()) if pairs is None else pairs
        parts.append(count_noun(count, "pair") if count else "no pairs")
    parts += _crowded_patients_in_words(entries)
    if labels:
        parts.append(f"classes {', '.join(sorted(labels))}")
    if reading.left_out:
        parts.append(_left_out_in_words(reading))
    return "; ".join(parts)


def _people_in_words(entries: Iterable[Entry]) -> list[str]:
    """How many patients and visits there are."""
    patients = {entry.patient for entry in entries} - {""}
    visits = {(entry.patient, entry.visit) for entry in entries if entry.visit}
    parts = [count_noun(patients, "patient") if patients else "patients unknown"]
    return [*parts, count_noun(visits, "visit")] if visits else parts


def _crowded_patients_in_words(entries: Iterable[Entry]) -> list[str]:
    """How many patients have several volumes of one contrast and visit."""
    cells = Counter(entry.cell for entry in entries if entry.patient and is_volume(entry.path))
    several = {cell[1] for cell, count in cells.items() if count > 1}
    if not several:
        return []
    return [f"{count_noun(several, 'patient')} with several files of one contrast and visit"]


def rows_in_words(how: str, rows: Iterable[Row], pairs: int | None = None) -> str:
    """A line on rows that were read by `how`, such as "DICOM headers"."""
    entries = []
    rows = list(rows)
    for row in rows:
        if row.kind != "image":
            continue
        entry = Entry(str(row.path), row.contrast, row.subject, row.session)
        entry.label = row.label
        entries.append(entry)
    left_out = {str(row.path): row.why for row in rows if row.kind != "image"}
    return f"{how}: {in_words(Reading(how, entries, left_out), pairs)}"


def _left_out_in_words(reading: Reading) -> str:
    reasons = Counter(reading.left_out.values())
    shown = []
    for reason, count in reasons.most_common(MAX_REASONS):
        shown.append(f"{count} {PLURALS.get(reason, reason) if count > 1 else reason}")
    others = reasons.total() - sum(count for _, count in reasons.most_common(MAX_REASONS))
    if others:
        shown.append(f"{others} more")
    return f"{reasons.total()} left out ({', '.join(shown)})"


def as_setting(layout: str) -> str:
    """The setting of a recipe that gives a layout."""
    return f"data.source.layout={json.dumps(layout)}"
