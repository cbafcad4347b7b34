"""Which files of a folder of images show the same as those of another: predictions and their truth, as
tables with a line for each image.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pandas as pd

from gantk.catalog.catalog import Row
from gantk.catalog.contrasts import contrast_in, exclude, usual_contrast
from gantk.catalog.domains import patient_of, regex_option
from gantk.catalog.question import LayoutQuestion
from gantk.catalog.scan import Asked, scan
from gantk.errors import UserError, count_noun, join_first
from gantk.formats.files import readable, suffix_of
from gantk.formats.image import Scan

WHERE = "--pred, --truth"
OPTIONS = ("--layout", "--truth-layout")
MAX_LISTED_NAMES = 5
REMEDY = "give each image the name of its truth, or say whose files are whose: --layout and --truth-layout"
SUFFIXES = ("_made", "_real")
# the first of these by which every prediction has one truth of its own
KEYS = (
    ["name"],
    ["file"],
    ["file_without_contrast"],
    ["patient", "visit", "contrast"],
    ["folder"],  # one image each
)


def list_images(path: Path, pattern: str, layout: str) -> pd.DataFrame:
    """The images below a folder, or the one that the path names: `scan`, named from the folder on,
    names without suffix, contrast, patient and visit as far as they are known, `kind` of a
    `gantk.catalog.catalog.Row`, and `owner`, the patient or else the image's own name. Masks and the
    like only where nothing else is; UserError for a folder without images.

    Patients are those that `pattern` finds, or a layout says; without either they are not known.
    """
    rows = _rows_below(path, pattern, layout)
    root = path.parent if path.is_file() else path
    table = pd.DataFrame({"scan": [row.scan_below(root) for row in rows]})
    names = pd.Series([scan.name for scan in table.scan], dtype=object)
    table["name"] = [name.removesuffix(suffix_of(name)) for name in names]
    table["file"] = table.name.str.rpartition("/")[2]
    table["folder"] = table.name.str.rpartition("/")[0]
    table["file_without_contrast"] = [contrast_in(file)[1] for file in table.file]
    table["contrast"] = [row.contrast for row in rows]
    table["visit"] = [row.session for row in rows]
    table["patient"] = [row.subject or "" for row in rows]
    table["kind"] = [row.kind for row in rows]
    return table.assign(owner=table.patient.where(table.patient != "", names))


def _rows_below(path: Path, pattern: str, layout: str) -> list[Row]:
    if path.is_file():
        return [Row(Scan(path))]
    catalog = scan(path, Asked(layout=layout, patients="if clear", use_generated=True))
    rows = [row for row in catalog if row.kind != "other"]
    if not rows:
        raise UserError(f"the folder '{path}' contains no images", where=WHERE, allowed=readable())
    compiled = regex_option(pattern)
    if compiled:
        for row in rows:
            row.subject = patient_of(row.scan_below(path).name, compiled)
    return [row for row in rows if row.kind in ("image", "no scan")] or rows


def of_contrasts(images: pd.DataFrame, contrasts: pd.Series) -> pd.DataFrame:
    """The images of these contrasts, as far as names or headers say; all where none shows one."""
    scans = images[images.kind != "no scan"]
    scans = images if scans.empty else scans
    shown = scans[scans.contrast.isin(contrasts[contrasts != ""])]
    return scans if shown.empty else shown


def find_pairs(made: pd.DataFrame, real: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """Each prediction with its truth, `scan_made` and `scan_real`, and notes: images of equal names, or
    of the same contrast, patient and visit, or alone in equal folders. UserError where a prediction
    has no truth of its own.
    """
    for key in KEYS:
        is_known = (made[key[0]] != "").all()
        if is_known and not made.duplicated(key).any():
            of_once = real[~real.duplicated(key, keep=False)]
            pairs = made.merge(of_once, on=key, suffixes=SUFFIXES)
            if len(pairs) == len(made):
                unused = [each.name for each in real.scan if each not in {*pairs.scan_real}]
                what = f"{count_noun(unused, 'image')} of the truth without a prediction: "
                notes = [what + join_first(unused, most=MAX_LISTED_NAMES)] * bool(unused)
                return pairs, [*notes, *_notes_on_contrasts(pairs)]

    names = made.name[made.name.duplicated(keep=False) | ~made.name.isin(real.name)]
    listed = join_first(sorted({*names}), most=MAX_LISTED_NAMES)
    what = f"not every prediction has one truth of its own, by names or by patients: {listed}"
    raise UserError(what, where=WHERE, remedy=REMEDY)


def _notes_on_contrasts(pairs: pd.DataFrame) -> Iterator[str]:
    """A note where names say that predictions show another contrast than their truth."""
    if "contrast" in pairs:  # they were matched by it
        return
    contrasts = pairs[["contrast_made", "contrast_real"]].drop_duplicates()
    for made, real in contrasts.itertuples(index=False):
        if exclude(usual_contrast(made), usual_contrast(real)):
            yield f"different contrasts are compared, as names say: {made} with {real}"


def ask_for_layouts(paths: Sequence[Path], layouts: Sequence[str], error: UserError) -> None:
    """Raise the question for a layout of a folder that none reads, with what is wrong without it."""
    for path, layout, option in zip(paths, layouts, OPTIONS, strict=True):
        if path.is_dir() and not layout:
            try:
                scan(path, Asked(option=option, use_generated=True))
            except LayoutQuestion as question:
                question.what = f"{error.what}. Give each image the name of its truth, or a layout: {question.what}"
                raise
