"""Which files of a folder of images show the same as those of another: predictions and their truth."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from gantk.catalog.catalog import Row
from gantk.catalog.contrasts import contrast_in
from gantk.catalog.layouts import Asked
from gantk.catalog.scan import scan
from gantk.errors import UserError, join_first
from gantk.formats.files import grids_differ, readable, suffix_of
from gantk.formats.image import Image, Scan

WHERE = "--pred, --truth"
MAX_LISTED_NAMES = 5

FilePair = tuple[Scan, Scan]  # a prediction and its truth
Read = Callable[[Scan], Image]


def rows_of(path: Path, pattern: str) -> list[Row]:
    """The images below a folder, or the one that the path names; masks only where nothing else is.
    UserError for a folder without images.
    """
    if path.is_file():
        return [Row(Scan(path))]

    rows = [row for row in scan(path, Asked(patient=pattern)) if row.kind != "other"]
    if not rows:
        raise UserError(f"the folder '{path}' contains no images", where=WHERE, allowed=readable())
    return [row for row in rows if row.kind != "mask"] or rows


def of_contrasts(rows: list[Row], shown: set[str]) -> list[Row]:
    """The true images of the contrasts that the predictions show; all of them where names do not
    say these.
    """
    scans = [row for row in rows if row.kind != "no scan"] or rows
    return [row for row in scans if row.contrast in shown] or scans


def patients_of(rows: Iterable[Row], path: Path) -> dict[Scan, str]:
    """Images with their patients, as names or headers say, or else with their own names."""
    root = path.parent if path.is_file() else path
    images = [(row.scan_below(root), row.subject) for row in rows]
    return {image: subject or image.name for image, subject in images}


def pairs_of_files(
    folders: Sequence[Path], rows: Sequence[Sequence[Row]]
) -> tuple[list[FilePair], list[str]]:
    """Pairs of files with the same name up to the suffix, of two folders; where these differ and
    what is left is unique, without sub-folders, and then without the contrast; else by contrast,
    patient and visit. And the names of predictions whose visit has no truth. UserError that lists
    names in one folder only.
    """
    images = [
        [row.scan_below(folder) for row in own] for folder, own in zip(folders, rows, strict=True)
    ]
    names = [[scan.name.removesuffix(suffix_of(scan.name)) for scan in each] for each in images]
    for shorten in (_without_folders, _without_contrast):
        if set(names[0]) != set(names[1]):
            shorter = [[*map(shorten, each)] for each in names]
            if all(len(set(each)) == len(each) for each in shorter):
                names = shorter

    if set(names[0]) != set(names[1]):
        made, real = folders
        truth_of = _truths_by_visit(*rows)
        if 2 * len(truth_of) >= len(rows[0]):
            pairs = [
                (one.scan_below(made), truth_of[one.scan].scan_below(real))
                for one in rows[0]
                if one.scan in truth_of
            ]
            return pairs, [one.scan_below(made).name for one in rows[0] if one.scan not in truth_of]

    by_name = []
    for folder, scans, own in zip(folders, images, names, strict=True):
        found = dict(zip(own, scans, strict=True))
        by_name.append(found)
        if len(found) < len(own):
            twice = next(one.name for one in scans if one not in found.values())
            what = f"the folder {folder} has several images with the same name: {twice}"
            raise UserError(what, where=WHERE, remedy="keep one image of each name")

    of_made, of_real = by_name
    unmatched = []
    for folder, unpaired in zip(
        folders, (of_made.keys() - of_real, of_real.keys() - of_made), strict=True
    ):
        if unpaired:
            listed = join_first(sorted(unpaired), most=MAX_LISTED_NAMES)
            unmatched.append(f"{len(unpaired)} only in {folder}: {listed}")

    if unmatched:
        what = f"the two folders do not contain the same file names: {'; '.join(unmatched)}"
        raise UserError(what, where=WHERE, remedy="give each image the name of its truth")

    return [(scan, of_real[name]) for name, scan in of_made.items()], []


def _truths_by_visit(made: Sequence[Row], real: Sequence[Row]) -> dict[Scan, Row]:
    """The truth of each prediction: the only one of its contrast, patient and visit."""
    truths: dict[tuple[str, str, str], list[Row]] = defaultdict(list)
    for row in real:
        truths[row.contrast, row.subject, row.session].append(row)

    truth_of = {}
    for row in made:
        own = truths[row.contrast, row.subject, row.session]
        if row.subject and len(own) == 1:
            truth_of[row.scan] = own[0]
    return truth_of


def _without_folders(name: str) -> str:
    return name.rpartition("/")[2]


def _without_contrast(name: str) -> str:
    return contrast_in(name, set())[1]


def require_same_grid(pairs: list[FilePair], read: Read) -> None:
    """Raise UserError where a prediction is on another grid than its truth."""
    for made, real in pairs:
        differs = grids_differ(read(made), read(real))
        if differs:
            what = f"'{made.path}' is on another grid than its truth '{real.path}': {differs}"
            remedy = (
                "resample the prediction onto the grid of the truth first, with"
                " gantk.resample_onto (docs/background/trust.md shows how)"
            )
            raise UserError(what, where=WHERE, remedy=remedy)
