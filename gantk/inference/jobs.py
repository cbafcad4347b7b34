"""What a model translates (`Job`) and which files that gives (`Output`): the rows of a catalog, for
models of several contrasts its cases.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from gantk.catalog.catalog import Case, Catalog, Row
from gantk.catalog.contrasts import (
    exclude,
    known_contrast,
    named_after,
    result_paths,
    usual_contrast,
)
from gantk.catalog.scan import Asked, Patients, scan
from gantk.errors import UserError
from gantk.formats import files as io
from gantk.formats.image import Scan
from gantk.inference.case import by_contrast, in_model_order


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
    def first(self) -> Path:
        """The path of the first scan."""
        return next(iter(self.scans.values())).path

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
    scans = [row.scan_below(root) for row in rows]
    if any(row.line for row in rows):  # of a table, whose files may lie elsewhere
        places = [Path(os.path.abspath(row.scan.path)) for row in rows]
        above = Path(os.path.abspath(root))
        if not all(place.is_relative_to(above) for place in places):
            above = Path(os.path.commonpath([place.parent for place in places]))
        scans = [
            replace(scan, name=place.relative_to(above).as_posix())
            for scan, place in zip(scans, places, strict=True)
        ]
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
            for contrast, rows in in_model_order(case.rows, contrasts).items()
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
