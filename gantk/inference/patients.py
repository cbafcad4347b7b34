"""Finds the contrasts of patients, for models of several: in folders, in a table, or in files that
are named one by one; reads them onto one grid.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

import numpy as np

from gantk.catalog.catalog import Catalog
from gantk.catalog.contrasts import (
    BESIDE_OTHERS,
    CONTRASTS,
    contrast_called,
    contrast_word,
    contrasts_in,
    one_word,
    usual_contrast,
    with_contrast,
    word_in_naming,
)
from gantk.catalog.domains import names_mask
from gantk.catalog.layouts import Asked, read_names
from gantk.catalog.versions import without_whole_heads
from gantk.data.resample import resample_onto
from gantk.errors import UserError, did_you_mean
from gantk.formats import files as io
from gantk.formats.image import Image, Scan
from gantk.inference.sidecar import is_generated

T = TypeVar("T")
TABLES = (".csv", ".tsv")
Candidates = dict[str, list[Scan]]  # by contrast
Rows = Iterable[tuple[int, dict[str, str]]]  # line numbers and cells


@dataclass(frozen=True)
class Patient:
    """The scans that one patient has of a model's contrasts, in the model's order."""

    name: str  # in messages
    place: Path  # of the results in the folder of results
    candidates: Candidates = field(default_factory=dict)

    @property
    def scans(self) -> dict[str, Scan]:
        """The scan of each contrast that the patient has."""
        return {contrast: found[0] for contrast, found in self.candidates.items()}

    def scans_of(self, contrasts: Sequence[str]) -> tuple[Scan | None, ...]:
        """The scan of each of these contrasts; None for one that the patient lacks."""
        found = self.scans
        return tuple(found.get(contrast) for contrast in contrasts)

    @property
    def problem(self) -> UserError | None:
        """The error for two scans of one contrast; None where there is at most one of each."""
        for contrast, found in self.candidates.items():
            if len(found) > 1:
                one, other = (scan.path.name for scan in found[:2])
                if one == other:
                    one, other = (scan.name for scan in found[:2])
                return UserError(
                    f"'{self.name}' has two images of {contrast}: '{one}' and '{other}'",
                    where="INPUT",
                    allowed="one image of each contrast",
                    remedy=(
                        f"make a folder for each patient, or name the files: --from {contrast}=FILE"
                    ),
                )
        return None

    def result_name(self, contrast: str) -> str:
        """The name of the result for a contrast, in the style of the patient's files.

        `007_t1n.nii.gz` and FLAIR give `007_t2f.nii.gz`. A DICOM series is named by its contrast.
        """
        scans = list(self.scans.values())
        files = [scan for scan in scans if io.is_image(scan.path)]
        if not files:
            return contrast

        stems = [io.stem_of(scan.path) for scan in files]
        words = list(filter(None, map(contrast_word, stems)))
        word = word_in_naming(contrast, words)
        suffix = io.suffix_of(files[0].path)
        for stem in stems:
            name = with_contrast(stem, word)
            if name:
                return f"{name}{suffix}"

        return f"{stems[0]}_{contrast}{suffix}"


@dataclass(frozen=True)
class Found:
    """The patients of a table or a folder, and the images of the folder that are not used."""

    patients: list[Patient]
    unused: list[Path] = field(default_factory=list)


def find_patients(
    source: Path, results: Path, contrasts: Sequence[str], stripped: bool = False
) -> Found:
    """The patients of a table or a folder; UserError where there is none with a contrast.

    `results` is the folder of results, which may lie in the source and is then left out, as are
    images that gantk generated. `stripped`: whether the model was trained on skull-stripped
    images. Then an image without skull is used where there is one (`T1_brain` beside `T1`).
    """
    if source.is_file():
        return Found(_of_table(source, contrasts))

    is_input = no_result_of(source, results)
    images = [file for file in io.list_images(source, recursive=True) if is_input(file)]
    images = [file for file in images if not is_generated(file)]
    candidates = without_whole_heads(images) if stripped else images
    catalog = read_names(source, candidates, Asked(dict.fromkeys(contrasts, ""), by_folders=False))
    patients = _of_catalog(source, catalog, contrasts)
    patients += _of_series(source, is_input, contrasts)
    if not patients:
        what = f"no folder in '{source}' contains files named after {', '.join(contrasts)}"
        found = [f"'{file.relative_to(source)}'" for file in images[:3]]
        if found:
            what += f". Files found: {', '.join(found)}"
        raise UserError(
            what,
            where="INPUT",
            remedy=(
                "name the folder of a patient with one file for each contrast, or name the files:"
                f" --from {contrasts[0]}=FILE"
            ),
        )

    used: set[Path] = set()
    for patient in patients:
        for scans in patient.candidates.values():
            used.update(scan.path for scan in scans)
    used.update(row.path for row in catalog.of_kind("mask"))
    unused = [image for image in images if image not in used]
    return Found(patients, unused)


def patient_of_files(files: Mapping[str, Path], contrasts: Sequence[str]) -> Patient:
    """The patient whose files are named by contrast; UserError as `by_contrast`."""
    given = by_contrast(files, contrasts, "--from")
    candidates = {contrast: [io.scan_of(Path(path))] for contrast, path in given.items()}
    first = next(iter(candidates.values()))[0]
    return Patient(first.path.parent.name, Path(), candidates)


def by_contrast(given: Mapping[str, T], contrasts: Sequence[str], where: str) -> dict[str, T]:
    """What is given for each contrast of a model, in the model's order.

    UserError where nothing is given, for a contrast that the model does not know, and for two names
    of one contrast.
    """
    if not given:
        raise UserError("no image is given", where=where, allowed=contrasts)

    known: dict[str, T] = {}
    for name, value in given.items():
        contrast = known_contrast(name, contrasts)
        if contrast is None:
            raise UserError(
                f"this model has no contrast '{name}'",
                where=where,
                allowed=contrasts,
                remedy=did_you_mean(name.upper(), contrasts),
            )
        if contrast in known:
            raise UserError(
                f"two images are given for {contrast}",
                where=where,
                allowed="one image of each contrast",
            )
        known[contrast] = value

    return _in_order(known, contrasts)


def _in_order(found: Mapping[str, T], contrasts: Sequence[str]) -> dict[str, T]:
    """What was found for each contrast, in the model's order."""
    return {contrast: found[contrast] for contrast in contrasts if contrast in found}


def contrasts_to_make(
    targets: Sequence[str], given: Iterable[str], to: str | None, whose: str
) -> list[str]:
    """The contrasts that a model which completes patients makes: those that are not given, or the
    `targets` that `to` names. UserError where none is missing.
    """
    given = list(given)
    if to is not None:
        if len(targets) == 1:
            return list(targets)
        return [name for name in targets if given != [name]]  # nothing is made of itself

    missing = [name for name in targets if name not in given]
    if not missing:
        raise UserError(
            f"{whose} has {', '.join(targets)}, so no contrast is missing",
            where="INPUT",
            remedy=f"add --to {targets[-1]} to make one from the others anyway",
        )
    return missing


def expect_sources(
    given: Sequence[str], contrasts: Sequence[str], targets: Sequence[str], missing: str, whose: str
) -> None:
    """UserError where the only contrast given is the one to make, or where one lacks and `missing`
    (data.missing of the recipe) is "refuse".
    """
    if len(targets) == 1 and list(given) == list(targets):
        what = f"the only contrast given is {targets[0]}, which is to be generated"
        raise UserError(what, where="INPUT", allowed=contrasts)

    absent = [name for name in contrasts if name not in given]
    if absent and missing == "refuse":
        what = f"{whose} lacks {' and '.join(absent)}"
        remedy = 'add the files, or train a model with data.missing = "mask"'
        raise UserError(what, where="INPUT", remedy=remedy)


def known_contrast(name: str, contrasts: Iterable[str]) -> str | None:
    """The contrast of a model that a name means: by its own name, a usual synonym, or several words
    (`T1 post contrast`); None for others.
    """
    contrasts = list(contrasts)
    called = contrast_called(name, contrasts)
    if called:
        return called

    said = contrasts_in(name)
    for contrast in contrasts:
        usual = CONTRASTS.get(one_word(contrast), "")
        if said == {usual} or one_word(name) in BESIDE_OTHERS.get(usual, ()):
            return contrast
    return None


def _of_catalog(source: Path, catalog: Catalog, contrasts: Sequence[str]) -> list[Patient]:
    """A patient for each case of a catalog: its files of each contrast."""
    patients = []
    for case in catalog.cases(contrasts):
        candidates = {
            contrast: [Scan(row.path, (row.path,), row.path.name) for row in rows]
            for contrast, rows in case.rows.items()
        }
        place = _folder_of_case(case.folder.relative_to(source))
        name = source.name if place == Path() else place.as_posix()
        patients.append(Patient(name, place, _in_order(candidates, contrasts)))
    return patients


def _folder_of_case(place: Path) -> Path:
    """The folder of a case: above the folders that are named after contrasts."""
    for part in (place, *place.parents):
        if usual_contrast(part.name):
            return part.parent
    return place


def _of_series(
    source: Path, is_input: Callable[[Path], bool], contrasts: Sequence[str]
) -> list[Patient]:
    """A patient for each DICOM study, whose series say their contrast in header or folder name."""
    studies: dict[tuple[str, str], Candidates] = defaultdict(dict)
    for scan in io.scans(source):
        if io.is_image(scan.path) or not is_input(scan.files[0]):
            continue

        try:
            facts = io.outline(scan).facts
        except UserError:  # a damaged file beside others
            continue

        folder = Path(scan.name).name
        said = facts.get("contrast") or usual_contrast(folder) or folder
        contrast = known_contrast(said, contrasts)
        if contrast:
            study = facts.get("patient", ""), facts.get("study", "")
            studies[study].setdefault(contrast, []).append(scan)

    patients = []
    for found in studies.values():
        folders = [scan.files[0].parent for own in found.values() for scan in own]
        place = Path(os.path.commonpath(folders)).relative_to(source)
        if len(folders) == 1 and len(studies) > 1:
            place = place.parent  # of the patient, not of the series
        name = source.name if place == Path() else place.as_posix()
        patients.append(Patient(name, place, _in_order(found, contrasts)))

    return patients


def _of_table(table: Path, contrasts: Sequence[str]) -> list[Patient]:
    """The patients of a CSV: one row for each patient with a column for each contrast, or one row
    for each image with the columns path, domain and patient.
    """
    from gantk.catalog.tables import first_columns, open_rows, usual_columns

    columns, rows = open_rows(table)
    usual = {column: names[0] for column, names in usual_columns(columns).items()}
    column_of = _columns_of_contrasts(table, columns, contrasts)
    if column_of:
        found = _of_rows(table, rows, column_of, usual.get("patient", ""))
    elif {"path", "domain", "patient"} <= usual.keys():
        found = _of_images(table, rows, usual, contrasts)
    else:
        raise UserError(
            f"'{table}' does not say which contrast each image is. Its columns are"
            f" {first_columns(columns)}",
            where="INPUT",
            allowed=f"path, domain and patient, or a column for each of {', '.join(contrasts)}",
        )

    patients = []
    for name, own in found:
        if own:
            ordered = _in_order(own, contrasts)
            folder = next(iter(ordered.values()))[0].path.parent
            place = Path(name)
            if folder.is_relative_to(table.parent):
                place = folder.relative_to(table.parent)
            patients.append(Patient(name, place, ordered))

    if not patients:
        raise UserError(
            f"'{table}' lists no image of {', '.join(contrasts)}",
            where="INPUT",
            allowed=contrasts,
        )

    return patients


def _columns_of_contrasts(
    table: Path, columns: Sequence[str], contrasts: Sequence[str]
) -> dict[str, str]:
    """The column of each contrast: one that is called as the contrast, else one whose words mean it
    (`T1_post_contrast`); UserError where two do.
    """
    from gantk.catalog.tables import OF_FILES

    names = {column: OF_FILES.sub("", column) for column in columns}
    column_of: dict[str, str] = {}
    for column, name in names.items():
        contrast = contrast_called(name, contrasts)
        if contrast:
            column_of.setdefault(contrast, column)

    called = set(column_of)
    for column, name in names.items():
        contrast = known_contrast(name, contrasts)
        if contrast is None or contrast in called or names_mask(name):
            continue
        if contrast in column_of:
            raise UserError(
                f"'{table}' has two columns of {contrast}: '{column_of[contrast]}' and '{column}'",
                where="INPUT",
                allowed="one column for each contrast",
            )
        column_of[contrast] = column

    return column_of


def _of_rows(
    table: Path, rows: Rows, column_of: Mapping[str, str], patient: str
) -> list[tuple[str, Candidates]]:
    """Name and scans of the patient of each row, from a column for each contrast."""
    found = []
    for line, row in rows:
        own: Candidates = {}
        for contrast, column in column_of.items():
            if row.get(column):
                own[contrast] = [_scan_in_cell(table, row[column], line)]
        found.append((row.get(patient) or f"line {line}", own))

    return found


def _of_images(
    table: Path, rows: Rows, columns: Mapping[str, str], contrasts: Sequence[str]
) -> list[tuple[str, Candidates]]:
    """Name and scans of each patient, from a row for each image."""
    found: dict[str, Candidates] = {}
    for line, row in rows:
        contrast = known_contrast(row.get(columns["domain"], ""), contrasts)
        path = row.get(columns["path"])
        if contrast and path:
            own = found.setdefault(row.get(columns["patient"], ""), {})
            own.setdefault(contrast, []).append(_scan_in_cell(table, path, line))

    return list(found.items())


def _scan_in_cell(table: Path, text: str, line: int) -> Scan:
    path = table.parent / text
    if not path.exists():
        raise UserError(
            f"line {line} of '{table}' names '{text}', which does not exist",
            where="INPUT",
            allowed="paths relative to the table",
        )
    return io.scan_of(path)


def no_result_of(source: Path, results: Path) -> Callable[[Path], bool]:
    """The test that tells the inputs in the folder `source` from earlier results, where the folder
    of results is a part of it.
    """
    root = source.resolve()
    folder = results.resolve()
    if folder == root or not folder.is_relative_to(root):
        return lambda file: True
    return lambda file: not file.resolve().is_relative_to(folder)


# ---- one grid


def on_one_grid(
    images: Mapping[str, Image], onto: str | None = None
) -> tuple[dict[str, Image], str, list[str]]:
    """Resample the images of a patient onto the grid of one of them, by their headers.

    `onto` is the contrast with this grid; None: the first. Returns the images, the contrast with
    the grid, and those that were resampled. UserError where `onto` is not among them, an image has
    no position in space, or images do not overlap.
    """
    chosen = known_contrast(onto, images) if onto else next(iter(images))
    if chosen is None:
        raise UserError(
            f"there is no image of {onto} to take the grid from",
            where="--onto",
            allowed=list(images),
        )

    reference = images[chosen]
    done = {}
    resampled = []
    for contrast, image in images.items():
        if image.channels != 1:
            raise UserError(
                f"'{image.path}' is a colour image", where="INPUT", allowed="one value per voxel"
            )
        if image.grid.same_as(reference.grid):
            done[contrast] = image
            continue

        resampled.append(contrast)
        done[contrast] = _onto_grid_of(reference, image, contrast, chosen)

    return done, chosen, resampled


def _onto_grid_of(reference: Image, image: Image, contrast: str, chosen: str) -> Image:
    """An image on the grid of the reference; UserError where headers do not allow it."""
    if image.dims != 3 or reference.dims != 3 or image.affine is None or reference.affine is None:
        sides = [" x ".join(map(str, one.pixels.shape[1:])) for one in (image, reference)]
        raise UserError(
            f"{contrast} and {chosen} have different sizes, {sides[0]} and {sides[1]}, and no"
            " position in space",
            where="INPUT",
            allowed="volumes with positions in their headers, or images of one size",
            remedy="resample all contrasts of a patient onto one grid",
        )

    placed = resample_onto(image, reference)
    is_empty = np.ptp(placed.pixels) == 0 and np.ptp(image.pixels) > 0
    if is_empty:
        raise UserError(
            f"{contrast} and {chosen} do not overlap, by their headers",
            where="INPUT",
            allowed="images of one patient and session",
            remedy="check the files, or register them first",
        )

    return replace(placed, made_of=(image.header,))


def stack_contrasts(images: Mapping[str, Image], contrasts: Sequence[str], chosen: str) -> Image:
    """The images of a patient, on one grid, as the channels of one image; a missing contrast is
    NaN. The result has the header of the contrast `chosen`, and all headers in `made_of`.
    """
    first = images[chosen]
    missing = np.full_like(first.pixels, np.nan)
    channels = [images[name].pixels if name in images else missing for name in contrasts]
    given = [images[name] for name in contrasts if name in images]
    headers = [header for image in given for header in image.made_of or (image.header,)]
    return replace(first, pixels=np.concatenate(channels), made_of=tuple(headers))
