"""The data source over DICOM trees: each series is a scan, whose contrast its header or folders
name.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from gantk import Catalog, Row, VolumeSource
from gantk.catalog.contrasts import exclude, usual_contrast
from gantk.catalog.domains import NAME_DOMAINS, regex_option
from gantk.catalog.tables import FILL_IN_TABLE
from gantk.errors import NothingFound, UserError, count_noun, join_first
from gantk.formats import files as io
from gantk.formats.image import Scan
from gantk.plugin.spec import Onto
from gantk_dicom.format import is_dicom

NAME_PATIENTS = (
    "Name the patients by data.source.patient = REGEX, whose group is the patient in a path."
    f" {FILL_IN_TABLE}"
)


@dataclass(kw_only=True)
class Dicom(VolumeSource):
    """DICOM folders as archives and scanners export them. Each series is a scan, whatever its files
    are called.

    gantk assigns a series to a domain by its modality (CT, MR, PET), or by the contrast in its
    description, protocol or folder names. Patients come from the headers. A T1 and a T2 of one
    study and frame of reference are a registered pair if they have the same grid. With `onto` they
    are resampled onto one grid by their headers. Series that no scanner measured (localizers,
    screen captures, phase images, projections, subtractions, results of gantk) are left out, and
    counted.
    """

    # word or regex in the description, protocol or folder of the first domain; "" = domain name
    a: str = ""
    b: str = ""  # same for the second domain
    # resample a study's other image onto the grid of this one, by their headers
    onto: Onto = "none"
    # regex whose group is the patient in the path of a series; "" = PatientID, or the study where
    # that is empty
    patient: str = ""

    read_by = "DICOM headers"

    def __post_init__(self):
        super().__post_init__()
        self.patterns = {
            contrast: regex_option(self.texts.get(contrast, ""), self.option_of(contrast))
            for contrast in self.wanted
        }

    @classmethod
    def accepts(cls, path: Path) -> dict | None:
        """Returns {"path": ...} if a folder holds more DICOM files than other images, which may be
        previews.
        """
        files = io.files_below(path, True, bool) if path.is_dir() else []
        if sum(map(is_dicom, files)) > sum(map(io.is_image, files)):
            return {"path": str(path)}
        return None

    @cached_property
    def catalog(self) -> Catalog:
        """A row for each series of the domains; UserError where a domain has none."""
        series = self.series_rows()
        found = [row for row in series if row.header]
        chosen = {contrast: self._of_contrast(contrast, found) for contrast in self.patterns}
        contrast_of = {}
        rows = []
        for contrast, own in chosen.items():
            for row in own:
                row.contrast = contrast
                if contrast_of.setdefault(row.scan.name, contrast) != contrast:
                    raise UserError(
                        f"'{row.scan.name}' belongs to both domains, {' and '.join(self.domains)}",
                        where="data.source",
                        remedy=f"make data.source.a and data.source.b more specific. {FILL_IN_TABLE}",
                    )
            rows += own

        self.set_patients(rows)
        self.notes = _notes_on_people(rows)
        self.doubts = [] if self.pattern else _doubts_about_people(rows)
        return Catalog([*rows, *self._rows_left_out(series, rows)])

    def _of_contrast(self, name: str, found: Sequence[Row]) -> list[Row]:
        pattern = self.patterns[name]
        scans = [row for row in found if row.kind == "image"]
        if pattern is not None:
            chosen = []
            for row in found:
                texts = (*row.header.words, row.path.parent.relative_to(self.root).as_posix())
                if any(map(pattern.search, texts)):
                    chosen.append(replace(row, kind="image"))
        else:
            chosen = [row for row in scans if row.contrast == name]
            if not chosen and len(self.patterns) == 1:
                others = [
                    row for row in scans if exclude(row.contrast.lower(), usual_contrast(name))
                ]
                chosen = [] if others else scans

        if not chosen:
            examples = [f"'{row.scan.name}' ({row.header.label})" for row in found[:4]]
            there = f"; it has {', '.join(examples)}" if found else " and no other series"
            raise NothingFound(
                f"no DICOM series of {name} in '{self.root}'{there}",
                where=f"data.source.{self.option_of(name)}",
                allowed="a word or regular expression that occurs in SeriesDescription, ProtocolName or the"
                " folder's name",
                remedy=NAME_DOMAINS,
            )

        return chosen

    def _rows_left_out(self, series: Iterable[Row], used: Iterable[Row]) -> Iterator[Row]:
        """The series that are not used, and the images of other formats, with the reason."""
        files = {row.files for row in used}
        for row in series:
            if row.files not in files:
                row.kind = "left out"
                row.why = "unreadable"
                if row.header:
                    row.why = row.header.no_scan or row.contrast or "unknown contrast"
                yield row
        for path in io.list_images(self.root, recursive=True):
            yield Row(Scan(path), kind="left out", why="no DICOM")


def _doubts_about_people(found: Sequence[Row]) -> list[UserError]:
    """The error for series of nobody known, or else for the first identifier of several people: their
    headers differ in what one person has once.
    """
    nameless = [f"'{row.scan.name}'" for row in found if not row.subject]
    if nameless:
        return [
            UserError(
                "PatientID and StudyInstanceUID are empty, so it is not known whose scans these are:"
                f" {join_first(nameless, most=3)}",
                where="data.source.patient",
                remedy=NAME_PATIENTS,
            )
        ]

    known = {}
    for row in found:
        for element, value in row.header.person.items():
            if not value or element == "PatientName":  # which has spellings
                continue
            one = known.setdefault((row.header.patient.of.casefold(), element), row)
            if value != one.header.person[element]:
                return [
                    UserError(
                        f"'{one.scan.name}' and '{row.scan.name}' are one patient's by their PatientID (in"
                        f" any case) or study, but differ in {element}, so it is not sure whose they are",
                        where="data.source.patient",
                        remedy=NAME_PATIENTS,
                    )
                ]
    return []


def _notes_on_people(found: Iterable[Row]) -> list[str]:
    """Notes on studies that count as patients, and on people of one name and date of birth who have
    several identifiers; not where all are called alike, as in data without names.
    """
    nameless = set()
    known = defaultdict(set)
    for row in found:
        person = row.header.person
        if not person["PatientID"]:
            nameless.add(row.header.study)
        if person["PatientName"] and person["PatientBirthDate"] and row.subject:
            known[person["PatientName"].casefold(), person["PatientBirthDate"]].add(row.subject)
    several = [" = ".join(sorted(ids)) for ids in known.values() if len(ids) > 1]
    notes = []
    if nameless:
        notes.append(
            f"PatientID is empty in {count_noun(nameless, 'study')}: each counts as one patient"
        )
    if len(known) > 1 and several:
        notes.append(
            "one name and date of birth have several identifiers in"
            f" {count_noun(several, 'patient')}: {join_first(several, most=3)}"
        )
    return [
        f"{note}. One person may then be in training and test. {NAME_PATIENTS}" for note in notes
    ]
