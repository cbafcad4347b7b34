"""Which files of a folder of images show the same as those of another: predictions and their truth.

Read `find_pairs` first.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from functools import cached_property
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
NAME_OR_LAYOUT = "give each image the name of its truth, or say whose files are whose: --layout and --truth-layout"
ONE_OF_A_NAME = "keep one image of each name"
ONE_OF_A_TRUTH = "keep one prediction of each true image, or score each model's folder by itself"

FilePair = tuple[Scan, Scan]  # a prediction and its truth
Key = Callable[[str], Hashable]  # name without its suffix -> equal for image and truth
# the first of these by which every image has its truth
KEYS: tuple[Key, ...] = (
    lambda name: name,
    lambda name: name.rpartition("/")[2],
    lambda name: contrast_in(name.rpartition("/")[2], set())[1],
)


@dataclass(frozen=True)
class Side:
    """The predictions, or the true images: those below a folder, or the one that the path names."""

    path: Path
    rows: list[Row]
    option: str  # that names the layout of the files
    layout: str  # "" if the user gave none

    @cached_property
    def scans(self) -> list[Scan]:
        """The scan of each row, named from the folder on."""
        root = self.path.parent if self.path.is_file() else self.path
        return [row.scan_below(root) for row in self.rows]

    @cached_property
    def patients(self) -> dict[Scan, str]:
        """Each image with its patient, as names or headers say, or else with its own name."""
        rows = zip(self.scans, self.rows, strict=True)
        return {scan: row.subject or scan.name for scan, row in rows}

    @cached_property
    def names(self) -> list[str]:
        """The name of each image without its suffix."""
        return [scan.name.removesuffix(suffix_of(scan.name)) for scan in self.scans]

    @cached_property
    def visits(self) -> list[tuple[str, str, str]]:
        """Contrast, patient and visit of each image."""
        return [(row.contrast, row.subject, row.session) for row in self.rows]

    def only(self, contrasts: set[str]) -> Side:
        """The images of these contrasts; all where none shows one. Masks and the like are left out."""
        rows = [row for row in self.rows if row.kind != "no scan"] or self.rows
        shown = [row for row in rows if row.contrast in contrasts] or rows
        return Side(self.path, shown, self.option, self.layout)

    @property
    def contrasts(self) -> set[str]:
        """The contrasts that the images show, as far as names or headers say."""
        return {row.contrast for row in self.rows} - {""}


def find_sides(
    predicted: Path, truth: Path, patient: str, layouts: tuple[str, str]
) -> tuple[Side, Side, list[str]]:
    """The predictions, the true images, and notes on what is not compared: of the truth those of the
    contrasts that the predictions show, where names say these.

    `patient`: a regular expression; `layouts`: the lines that say whose the files of each folder are.
    """
    made = _side(predicted, patient, "--layout", layouts[0])
    everything = _side(truth, patient, "--truth-layout", layouts[1])
    real = everything.only(made.contrasts)
    notes = []
    unused = len(everything.rows) - len(real.rows)
    if unused:
        contrasts = " and ".join(sorted({row.contrast for row in real.rows}))
        notes.append(
            f"{count_noun(unused, 'image')} of the truth not used: the predictions show {contrasts}, as"
            " names say"
        )
    others = [
        f"predictions show {one}, their truth {other}, as names say"
        for one in sorted(made.contrasts)
        for other in sorted(real.contrasts)
        if exclude(usual_contrast(one), usual_contrast(other))
    ]
    if others and made.contrasts.isdisjoint(real.contrasts):
        notes.append(f"different contrasts are compared: {others[0]}")
    return made, real, notes


def _side(path: Path, pattern: str, option: str, layout: str) -> Side:
    """The images below a folder, or the one that the path names; masks and the like only where
    nothing else is. UserError for a folder without images.

    Patients are those that `pattern` finds, or a layout says; without either they are not known.
    """
    if path.is_file():
        return Side(path, [Row(Scan(path))], option, layout)

    asked = Asked(layout=layout, use_generated=True)
    rows = [row for row in scan_or_contrasts(path, asked) if row.kind != "other"]
    if not rows:
        raise UserError(f"the folder '{path}' contains no images", where=WHERE, allowed=readable())
    compiled = regex_option(pattern)
    if compiled:
        for row in rows:
            row.subject = patient_of(row.scan_below(path).name, compiled)
    used = [row for row in rows if row.kind in ("image", "no scan")]
    return Side(path, used or rows, option, layout)


def find_pairs(made: Side, real: Side) -> tuple[list[FilePair], list[str]]:
    """Each prediction with its truth, and notes on predictions without one: of two files these two; of
    folders images of equal names, else of the same contrast, patient and visit.

    UserError that lists the names in one folder only, or asks for a layout.
    """
    if made.path.is_file() and real.path.is_file():
        return [(made.scans[0], real.scans[0])], []

    for key in KEYS:
        found = _pairs_by(made, real, key)
        if found:
            return found, []

    of_visits = _pairs_of_visits(made, real)
    missing = [scan.name for scan in made.scans if scan not in of_visits]
    if len(missing) > len(of_visits):
        raise _names_differ(made, real)
    what = f"{count_noun(missing, 'prediction')} without a truth: {join_first(missing)}"
    return [*of_visits.items()], [what] * bool(missing)


def _pairs_by(made: Side, real: Side, key: Key) -> list[FilePair]:
    """The images of equal keys; none where two images of a side have one, or any stays alone."""
    of_made, of_real = (
        dict(zip(map(key, side.names), side.scans, strict=True)) for side in (made, real)
    )
    is_unique = len(of_made) == len(made.scans) and len(of_real) == len(real.scans)
    if not is_unique or of_made.keys() != of_real.keys():
        return []
    return [(scan, of_real[own]) for own, scan in of_made.items()]


def _pairs_of_visits(made: Side, real: Side) -> dict[Scan, Scan]:
    """The truth of each prediction: the only one of its contrast, patient and visit. UserError where
    two predictions have one truth.
    """
    truths = dict(zip(real.visits, real.scans, strict=True))
    counts = Counter(real.visits)
    pairs: dict[Scan, Scan] = {}
    for image, visit in zip(made.scans, made.visits, strict=True):
        _, patient, _ = visit
        if patient and counts[visit] == 1:
            pairs[image] = truths[visit]

    for truth, count in Counter(pairs.values()).items():
        if count > 1:
            names = [each.name for each, own in pairs.items() if own == truth]
            what = f"{count} predictions have one truth, '{truth.name}': {join_first(names)}"
            raise UserError(what, where=WHERE, remedy=ONE_OF_A_TRUTH)
    return pairs


def _names_differ(made: Side, real: Side) -> UserError:
    """The error of two folders whose names do not match: what is named twice, else what is in one
    folder only; or the question for a layout, where no layout reads one of them.
    """
    alone = []
    for side, other, kind in ((made, real, "predictions"), (real, made, "truth")):
        twice = sorted(name for name, count in Counter(side.names).items() if count > 1)
        if twice:
            what = f"the folder '{side.path}' has several images with the same name: {join_first(twice)}"
            return UserError(what, where=WHERE, remedy=ONE_OF_A_NAME)
        only = sorted({*side.names} - {*other.names})
        if only:
            names = join_first(only, most=MAX_LISTED_NAMES)
            alone.append(f"{len(only)} only in the {kind}: {names}")

    what = f"the two folders do not contain the same file names: {'; '.join(alone)}"
    question = _question_of(made) or _question_of(real)
    if question is None:
        return UserError(what, where=WHERE, remedy=NAME_OR_LAYOUT)
    question.what = f"{what}. Give each image the name of its truth, or a layout: {question.what}"
    return question


def _question_of(side: Side) -> LayoutQuestion | None:
    """The question for a folder that no layout reads; None where one does, or the user gave one."""
    if side.path.is_dir() and not side.layout:
        try:
            scan(side.path, Asked(option=side.option, use_generated=True))
        except LayoutQuestion as question:
            return question
    return None
