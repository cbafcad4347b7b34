"""Which files of a folder of images show the same as those of another: predictions and their truth, as
tables with a line for each image.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pandas as pd

from gantk.catalog.catalog import Catalog, Row
from gantk.catalog.contrasts import contrast_in, exclude, usual_contrast
from gantk.catalog.domains import patient_of, regex_option
from gantk.catalog.scan import Asked, scan
from gantk.errors import UserError, count_noun, join_first
from gantk.formats.files import readable, suffix_of
from gantk.formats.image import Scan
from gantk.guest import Say

WHERE = "--pred, --truth"
MAX_LISTED_NAMES = 5
REMEDY = "give each image the name of its truth, or say whose files are whose: --patient REGEX, or --layout and --truth-layout"
SUFFIXES = ("_made", "_real")
# the first of these by which every prediction has one truth of its own
KEYS = (
    ["name"],
    ["file"],
    ["file_without_contrast"],
    ["patient", "visit", "file"],
    ["patient", "visit", "contrast"],
    ["folder"],  # one image each
)


def list_images(path: Path, pattern: str, layout: str, say: Say) -> pd.DataFrame:
    """The images below a folder, or the one that the path names: `scan`, named from the folder on,
    names without suffix, contrast, patient and visit as far as they are known, `kind` of a
    `gantk.catalog.catalog.Row`, and `owner`, the patient, of a single image its name. Masks and the
    like only where nothing else is; UserError for a folder without images.

    Patients are those that `pattern` finds, else those that headers or a layout say, which `say`
    states; "" if unknown.
    """
    root = path.parent if path.is_file() else path
    found = Catalog([Row(Scan(path))]) if path.is_file() else _read_folder(path, layout)
    if found.in_words and not pattern:
        say(f"layout   {path}: {found.in_words}")
    rows = [row for row in found if row.kind != "other"]
    if not rows:
        raise UserError(f"the folder '{path}' contains no images", where=WHERE, allowed=readable())

    compiled = regex_option(pattern)
    lines = []
    for row in [row for row in rows if row.kind in ("image", "no scan")] or rows:
        image = row.scan_below(root)
        name = image.name.removesuffix(suffix_of(image.name))
        file = name.rpartition("/")[2]
        patient = patient_of(image.name, compiled) if compiled else row.subject
        lines.append(
            {
                "scan": image,
                "name": name,
                "folder": name.rpartition("/")[0],
                "file": file,
                "file_without_contrast": contrast_in(file)[1],
                "contrast": row.contrast,
                "visit": row.session,
                "patient": patient or "",
                "kind": row.kind,
                "owner": patient or (image.name if len(rows) == 1 else ""),
            }
        )
    return pd.DataFrame(lines)


def _read_folder(folder: Path, layout: str) -> Catalog:
    """The catalog of a folder. Where names of one contrast say no patient, they are read as those of a
    recipe of one domain are.
    """
    asked = Asked(layout=layout, patients="if clear", use_generated=True)
    found = scan(folder, asked)
    if layout or any(row.subject for row in found) or len({row.contrast for row in found}) > 1:
        return found
    of_one_domain = scan(folder, replace(asked, contrasts=["images"]))
    for row, same in zip(found, of_one_domain, strict=True):
        row.subject = same.subject
    found.in_words = of_one_domain.in_words
    return found


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
    raise UserError(
        f"not every prediction has one truth of its own, by names or by patients: {listed}",
        where=WHERE,
        remedy=REMEDY,
    )


def _notes_on_contrasts(pairs: pd.DataFrame) -> Iterator[str]:
    """A note where names say that predictions show another contrast than their truth."""
    if "contrast" in pairs:  # they were matched by it
        return
    contrasts = pairs[["contrast_made", "contrast_real"]].drop_duplicates()
    for made, real in contrasts.itertuples(index=False):
        if exclude(usual_contrast(made), usual_contrast(real)):
            yield f"different contrasts are compared, as names say: {made} with {real}"
