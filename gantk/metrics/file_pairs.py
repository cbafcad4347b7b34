"""Which files of a folder of images show the same as those of another: predictions and their truth."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from gantk.catalog.catalog import Row
from gantk.catalog.contrasts import contrast_in, exclude, usual_contrast
from gantk.catalog.domains import patient_of, regex_option
from gantk.catalog.question import LayoutQuestion
from gantk.catalog.scan import Asked, scan, scan_or_contrasts
from gantk.errors import UserError, count_noun, join_first
from gantk.formats.files import readable, suffix_of
from gantk.formats.image import Scan

WHERE = "--pred, --truth"
MAX_LISTED_NAMES = 5
OPTIONS = ("--layout", "--truth-layout")
NAME_OR_LAYOUT = "give each image the name of its truth, or say whose files are whose: --layout and --truth-layout"
ONE_OF_A_NAME = "keep one image of each name"

FilePair = tuple[Scan, Scan]  # a prediction and its truth
Key = Callable[[str, Row], Hashable]  # (name without its suffix, row) -> equal for image and truth
# the first of these by which every image has its truth
KEYS: tuple[Key, ...] = (
    lambda name, row: name,
    lambda name, row: name.rpartition("/")[2],
    lambda name, row: contrast_in(name.rpartition("/")[2], set())[1],
)


@dataclass
class Files:
    """Predictions and true images, each with its patient, or else with its own name."""

    predictions: dict[Scan, str]
    truths: dict[Scan, str]
    notes: list[str] = field(default_factory=list)  # what is not compared
    rows: list[list[Row]] = field(default_factory=list)
    folders: Sequence[Path] = ()
    layouts: Sequence[str] = ()  # those that the user gave: nobody is asked twice

    def pairs(self) -> list[FilePair]:
        """Each prediction with its truth; UserError that lists the names in one folder only."""
        made, real = ([*images] for images in (self.predictions, self.truths))
        if len(made) == len(real) == 1 and not self.rows:
            return [(made[0], real[0])]

        named = [
            [
                (scan.name.removesuffix(suffix_of(scan.name)), row)
                for scan, row in zip(*own, strict=True)
            ]
            for own in zip((made, real), self.rows, strict=True)
        ]
        for key in KEYS:
            keys = [[key(*image) for image in own] for own in named]
            if set(keys[0]) == set(keys[1]) and all(len({*own}) == len(own) for own in keys):
                truth_of = dict(zip(keys[1], real, strict=True))
                return [(scan, truth_of[own]) for own, scan in zip(keys[0], made, strict=True)]

        by_visit = self._by_visit()
        if 2 * len(by_visit) >= len(made):
            if len(by_visit) < len(made):
                alone = [scan.name for scan in made if scan not in by_visit]
                what = f"{count_noun(alone, 'prediction')} without a truth: {join_first(alone)}"
                self.notes.append(what)
            return [*by_visit.items()]

        first, second = (Counter(name for name, _ in own) for own in named)
        for folder, names in zip(self.folders, (first, second), strict=True):
            twice = sorted(name for name, count in names.items() if count > 1)
            if twice:
                what = f"the folder '{folder}' has several images with the same name: {join_first(twice)}"
                raise UserError(what, where=WHERE, remedy=ONE_OF_A_NAME)

        sides = {"predictions": first - second, "truth": second - first}
        alone = [
            f"{only.total()} only in the {side}: {join_first(sorted(only), most=MAX_LISTED_NAMES)}"
            for side, only in sides.items()
            if only
        ]
        what = f"the two folders do not contain the same file names: {'; '.join(alone)}"
        for folder, option, layout in zip(self.folders, OPTIONS, self.layouts, strict=True):
            if folder.is_dir() and not layout:
                _ask_whose(folder, option, what)
        raise UserError(what, where=WHERE, remedy=NAME_OR_LAYOUT)

    def _by_visit(self) -> dict[Scan, Scan]:
        """The truth of each prediction: the only one of its contrast, patient and visit."""
        visits = [[(row.contrast, row.subject, row.session) for row in own] for own in self.rows]
        truths = dict(zip(visits[1], self.truths, strict=True))
        counts = Counter(visits[1])
        return {
            scan: truths[visit]
            for scan, visit in zip(self.predictions, visits[0], strict=True)
            if visit[1] and counts[visit] == 1
        }


def find_files(
    predicted: Path, truth: Path, patient: str, layouts: Sequence[str] = ("", "")
) -> Files:
    """The images below two folders, or those that the two paths name; of the truth those of the
    contrasts that the predictions show, where names say these. `patient`: a regular expression;
    `layouts`: the lines that say whose the files of each folder are.
    """
    folders = (predicted, truth)
    made, all_real = (
        _rows(path, patient, layout) for path, layout in zip(folders, layouts, strict=True)
    )
    shown = {row.contrast for row in made} - {""}
    scans = [row for row in all_real if row.kind != "no scan"] or all_real
    real = [row for row in scans if row.contrast in shown] or scans
    rows = [made, real] if predicted.is_dir() or truth.is_dir() else []
    patients = (_patients(made, predicted), _patients(real, truth))
    files = Files(*patients, rows=rows, folders=folders, layouts=layouts)
    if len(real) < len(all_real):
        unused = f"{count_noun(len(all_real) - len(real), 'image')} of the truth not used"
        contrasts = " and ".join(sorted({row.contrast for row in real}))
        files.notes.append(f"{unused}: the predictions show {contrasts}, as names say")
    true = {row.contrast for row in real} - {""}
    others = [
        (one, other)
        for one in sorted(shown)
        for other in sorted(true)
        if exclude(usual_contrast(one), usual_contrast(other))
    ]
    if others and shown.isdisjoint(true):
        note = "different contrasts are compared: predictions show {}, their truth {}, as names say"
        files.notes.append(note.format(*others[0]))
    return files


def _ask_whose(folder: Path, option: str, why: str) -> None:
    """Raise a LayoutQuestion where no layout reads a folder; it says first why a layout is needed."""
    try:
        scan(folder, Asked(option=option, use_generated=True))
    except LayoutQuestion as question:
        question.what = (
            f"{why}. Give each image the name of its truth, or a layout: {question.what}"
        )
        raise


def _rows(path: Path, pattern: str, layout: str) -> list[Row]:
    """The images below a folder, or the one that the path names; masks and the like only where
    nothing else is. UserError for a folder without images.

    Patients are those that `pattern` finds, or a layout says; without either they are not known.
    """
    if path.is_file():
        return [Row(Scan(path))]

    asked = Asked(layout=layout, use_generated=True)
    rows = [row for row in scan_or_contrasts(path, asked) if row.kind != "other"]
    if not rows:
        raise UserError(f"the folder '{path}' contains no images", where=WHERE, allowed=readable())
    compiled = regex_option(pattern)
    if compiled:
        for row in rows:
            row.subject = patient_of(row.scan_below(path).name, compiled)
    used = [row for row in rows if row.kind in ("image", "no scan")]
    return used or rows


def _patients(rows: Sequence[Row], path: Path) -> dict[Scan, str]:
    """Images with their patients, as names or headers say, or else with their own names."""
    root = path.parent if path.is_file() else path
    images = [(row.scan_below(root), row.subject) for row in rows]
    return {image: subject or image.name for image, subject in images}
