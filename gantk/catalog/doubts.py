"""Why a reading of names is not certain, although its line explains every image: what a field holds may
be something else, or the table is one that no careful person would write. "" where it is certain.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence

from gantk.catalog.catalog import Row
from gantk.catalog.words import (
    PLACE_OR_PERSON,
    are_channels,
    are_running_numbers,
    may_be_people_with_visits,
    whole,
)
from gantk.plugin.layout import Layout

FIELDS_OF_KIND = ("ab", "class", "contrast")  # which say what an image shows
CHANNELS_WITHOUT_NAMES = (
    "end in numbers of channels, which are different contrasts, and no dataset.json names them"
)


def doubt_about_table(rows: Sequence[Row], layout: Layout, contrasts: Sequence[str]) -> str:
    """A contrast that no file has, two files in one cell, or one patient alone who lacks a contrast."""
    there = {row.contrast for row in rows}
    lacking = [name for name in contrasts if name not in there]
    if lacking:
        return f"no file is named {' or '.join(lacking)}"
    if not rows:
        return "there are no images"

    wanted = {*contrasts} if len(contrasts) > 1 else there
    cells = Counter(row.cell for row in rows if row.contrast in wanted)
    (_, patient, visit, name, contrast, _), count = cells.most_common(1)[0]
    if count > 1 and not re.search(r"{(?:running|picture)}", layout.pattern):
        whose = " ".join(filter(None, (patient, visit, name))) or "one image"
        return f"'{whose}' has {count} files of {contrast}"

    if layout.general and contrasts:
        return _lone_gap(rows, wanted)
    return ""


def _lone_gap(rows: Sequence[Row], wanted: set[str]) -> str:
    """Which patient alone, of more than two, lacks some of the wanted contrasts."""
    contrasts_of = _contrasts_of_patients(rows)
    without = [patient for patient, own in contrasts_of.items() if patient and wanted - own]
    if len(contrasts_of) < 3 or len(without) != 1:
        return ""
    missing = " and ".join(sorted(wanted - contrasts_of[without[0]]))
    return f"'{without[0]}' alone has no {missing}"


def doubt_about_names(
    rows: Sequence[Row],
    fields_of: Sequence[Mapping[str, str]],
    layout: Layout,
) -> str:
    """What the fields of a general line hold, `fields_of` each row, may be something else."""
    of_names = layout.pattern.rpartition("/")[2]
    names_have_contrasts = "{contrast}" in (of_names if rows[0].is_volume else layout.pattern)
    if not names_have_contrasts and are_channels([row.scan.name for row in rows]):
        return CHANNELS_WITHOUT_NAMES

    for fields in fields_of:
        said = next(filter(None, map(fields.get, FIELDS_OF_KIND)), "")
        if whole(PLACE_OR_PERSON, said):
            return f"'{said}' may be no kind or class of image, but where or of whom it is"

    if not all(map(are_running_numbers, _running_numbers(rows, fields_of))):
        return "numbers in names of pictures may be those of patients"
    there = {row.contrast for row in rows}
    if layout.one_patient and len(there) < len(rows):
        return "there are several files of one contrast"
    contrasts_of = _contrasts_of_patients(rows)
    if "{patient}" in layout.pattern and may_be_people_with_visits({*contrasts_of}):
        return f"the patient of '{min(contrasts_of)}' may be its first word alone"
    if 1 < len(contrasts_of) == sum(map(len, contrasts_of.values())) == len(there):
        return "its patients would tell the contrasts apart"
    return ""


def _running_numbers(
    rows: Sequence[Row], fields_of: Sequence[Mapping[str, str]]
) -> Iterable[list[str]]:
    """The running numbers of each contrast, class and split."""
    numbers: dict[tuple[str, ...], list[str]] = defaultdict(list)
    for row, fields in zip(rows, fields_of, strict=True):
        if "running" in fields:
            numbers[row.contrast, row.label, row.split].append(fields["running"])
    return numbers.values()


def _contrasts_of_patients(rows: Sequence[Row]) -> dict[str, set[str]]:
    found: dict[str, set[str]] = defaultdict(set)
    for row in rows:
        found[row.subject].add(row.contrast)
    return found
