"""What a model translates (`Job`) and which files that gives (`Output`): the rows of a catalog, for
models of several contrasts its cases, whose images are brought onto one grid.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from gantk.catalog.catalog import Case, Catalog, Row
from gantk.catalog.contrasts import (
    exclude,
    known_contrast,
    named_after,
    result_paths,
    usual_contrast,
)
from gantk.catalog.scan import Asked, Patients, scan
from gantk.errors import UserError, did_you_mean
from gantk.formats import files as io
from gantk.formats.image import Image, Scan
from gantk.prepare.grid import resample_onto

T = TypeVar("T")


@dataclass(frozen=True)
class Output:
    """One file of results.

    Attributes:
        path: of the file.
        contrast: what it shows, or whose uncertainty.
        tail: the end of its name: "-2" of a variant, "_uncertainty" of its map, else "".
    """

    path: Path
    contrast: str
    tail: str = ""


@dataclass(frozen=True, eq=False)
class Job:
    """What is translated at once, an image or the images of one patient, and the files of results.

    Attributes:
        name: of the input, relative to the input folder.
        candidates: the scans of each contrast, in the model's order; one image of all contrasts is
            that of the model's source domain.
        outputs: the files of results, of each variant or map one for each contrast.
        place: of a patient's results in the folder of results.
    """

    name: str
    candidates: Mapping[str, Sequence[Scan]]
    outputs: tuple[Output, ...] = ()
    place: Path = Path()

    @property
    def scans(self) -> dict[str, Scan]:
        """The scan of each contrast that there is."""
        return {contrast: found[0] for contrast, found in self.candidates.items()}

    @property
    def files(self) -> list[Path]:
        """All files of the input."""
        return [file for scan in self.scans.values() for file in scan.files]

    def expect_single_scans(self) -> None:
        """UserError where there are two scans of one contrast."""
        for contrast, found in self.candidates.items():
            if len(found) > 1:
                names = " and ".join(f"'{scan.name}'" for scan in found[:2])
                raise UserError(
                    f"'{self.name}' has two images of {contrast}: {names}",
                    where="INPUT",
                    allowed="one image of each contrast",
                    remedy=(
                        f"make a folder for each patient, or name the files: --from {contrast}=FILE"
                    ),
                )

    def result_paths(
        self, folder: Path, contrasts: Sequence[str], is_one_image: bool
    ) -> list[Path]:
        """The path of the result for each contrast in a folder of results, in the style of the inputs:
        `007_t1n.nii.gz` and FLAIR give `007_t2f.nii.gz`. A DICOM series of a patient is named by its
        contrast.
        """
        if is_one_image:
            return [*result_paths(folder, self.name, contrasts).values()]
        files = [scan.path for scan in self.scans.values() if io.is_image(scan.path)]
        if not files:
            return [folder / self.place / contrast for contrast in contrasts]
        stems = [io.stem_of(path) for path in files]
        names = [f"{named_after(stems, each)}{io.suffix_of(files[0])}" for each in contrasts]
        return [folder / self.place / name for name in names]


def inputs_below(
    source: Path,
    results: Path,
    contrasts: Sequence[str],
    *,
    stripped: bool = False,
    layout: str = "",
) -> Catalog:
    """The catalog of a folder without the folder `results`, if it lies inside, and without images
    that gantk generated.

    `stripped`: whether the model was trained on skull-stripped images. Then an image without skull
    is used where there is one (`T1_brain` beside `T1`). `layout`: the line that says whose each
    file is; a model of several contrasts needs one, of which gantk knows some.
    """
    root = source.resolve()
    folder = results.resolve()
    holds_results = folder != root and folder.is_relative_to(root)

    def is_input(file: Path) -> bool:
        return not (holds_results and file.resolve().is_relative_to(folder))

    words = {contrast: () for contrast in contrasts}  # a patient may lack some of them
    patients: Patients = "all" if layout or len(contrasts) > 1 else "none"
    asked = Asked((), layout, words, patients=patients, stripped=stripped)
    return scan(source, asked, is_input)


def rows_of_one(catalog: Catalog, contrast: str) -> list[Row]:
    """The rows that a model of one contrast translates: where names or headers say the contrast, not
    those that say another one, nor a mask, a copy or no scan, nor those that say none, but for other
    patients by their headers; else all.
    """
    readable = [row for row in catalog if row.kind != "other"]
    rows = [row for row in readable if row.kind == "image"]
    own = usual_contrast(contrast)
    # "MR" says no other contrast than T1
    possible = [row for row in rows if not exclude(usual_contrast(row.contrast), own)]
    telling = [row for row in possible if known_contrast(row.contrast, [contrast])]
    named = any(not row.scan.is_series for row in telling)
    patients = {row.subject for row in telling if row.scan.is_series}
    patients |= {""} if patients else set()
    possible = [
        row
        for row in possible
        if row.contrast or (row.subject not in patients if row.scan.is_series else not named)
    ]
    return possible or rows or readable


def jobs_of_images(catalog: Catalog, root: Path, contrast: str) -> list[Job]:
    """A job, not yet with its results, for each image below the folder `root` that a model of one
    contrast translates.
    """
    rows = rows_of_one(catalog, contrast)
    if any(row.line for row in rows):  # of a table, whose files may lie elsewhere
        places = [Path(os.path.abspath(row.scan.path)) for row in rows]
        above = Path(os.path.abspath(root))
        if not all(place.is_relative_to(above) for place in places):
            above = Path(os.path.commonpath([place.parent for place in places]))
        scans = [
            replace(row.scan_below(root), name=place.relative_to(above).as_posix())
            for row, place in zip(rows, places, strict=True)
        ]
    else:
        scans = [row.scan_below(root) for row in rows]
    return [Job(scan.name, {contrast: [scan]}) for scan in dict.fromkeys(scans)]


def jobs_of_cases(catalog: Catalog, root: Path, contrasts: Sequence[str]) -> list[Job]:
    """A job, not yet with its results, for each case of a catalog below the folder `root`; UserError
    without any.
    """
    cases = catalog.cases(contrasts)
    if not cases:
        what = f"no folder in '{root}' contains files named after {', '.join(contrasts)}"
        found = [f"'{row.scan_below(root).name}'" for row in catalog if row.kind != "other"]
        if found:
            what += f". Files found: {', '.join(found[:3])}"
        raise UserError(
            what,
            where="INPUT",
            remedy=(
                "name the folder of a patient with one file for each contrast, or name the files:"
                f" --from {contrasts[0]}=FILE"
            ),
        )
    places = [_folder_of_case(case, root, alone=len(cases) == 1) for case in cases]
    jobs = []
    for case, place in zip(cases, places, strict=True):
        candidates = {
            contrast: [row.scan_below(root) for row in rows]
            for contrast, rows in _in_order(case.rows, contrasts).items()
        }
        name = root.name if place == Path() else place.as_posix()
        if places.count(place) > 1:  # patients of one folder
            name = case.name
        jobs.append(Job(name, candidates, place=place))
    return jobs


def _folder_of_case(case: Case, root: Path, *, alone: bool) -> Path:
    """The folder of a case below `root`: above the folders that are named after contrasts; of images
    elsewhere, which a table names, the patient's name.
    """
    if not case.folder.is_relative_to(root.absolute()):
        return Path(case.name)

    place = case.folder.relative_to(root.absolute())
    for part in (place, *place.parents):
        if usual_contrast(part.name):
            return part.parent

    of_series = [row for rows in case.rows.values() for row in rows if row.scan.is_series]
    if len(of_series) == 1 and not alone:
        return place.parent  # of the patient, not of the series
    return place


def job_of_files(files: Mapping[str, Path], contrasts: Sequence[str]) -> Job:
    """The job, not yet with its target, of files named by contrast; UserError as `by_contrast`."""
    given = by_contrast(files, contrasts, "--from")
    candidates = {contrast: [io.scan_of(Path(path))] for contrast, path in given.items()}
    first = next(iter(candidates.values()))[0]
    return Job(first.path.parent.name, candidates)


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


# ---- one grid


def stack_on_one_grid(
    images: Mapping[str, Image], contrasts: Sequence[str]
) -> tuple[Image, list[str]]:
    """The images of a patient as the channels of one image, resampled by their headers onto the grid
    of the first one; a missing contrast is NaN.

    Returns the image, which has the header of the first one and all headers in `made_of`, and the
    contrasts that were resampled. UserError where an image has no position in space, or images do
    not overlap.
    """
    chosen = next(iter(images))
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

    first = done[chosen]
    missing = np.full_like(first.pixels, np.nan)
    channels = [done[name].pixels if name in done else missing for name in contrasts]
    headers: list[Any] = []
    for name in contrasts:
        if name in done:
            headers += done[name].made_of or (done[name].header,)
    stacked = replace(first, pixels=np.concatenate(channels), made_of=tuple(headers))
    return stacked, resampled


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
