"""The data source over DICOM trees: each series is a scan, whose contrast its header or folders
name.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from itertools import takewhile
from pathlib import Path

from gantk import Catalog, Row, VolumeSource
from gantk.catalog.contrasts import (
    CONTRASTS,
    contrast_of_series,
    exclude,
    one_word,
    same_contrast,
    usual_contrast,
    words_of,
)
from gantk.catalog.domains import (
    Parts,
    patient_of,
    regex_option,
    splits_of,
)
from gantk.catalog.tables import FILL_IN_TABLE
from gantk.errors import UserError, count_noun
from gantk.formats import files as io
from gantk.formats.image import MARK, Scan
from gantk.plugin.spec import Onto
from gantk_dicom.format import is_dicom, room

MODALITIES = {"ct": "CT", "mr": "MR", "pet": "PT"}  # domains determined by the modality alone
# CT of one dose or with an agent, which words tell from other CT
KINDS_OF_CT = {"ldct", "ndct", "ncct", "cect"}
PERSON = ("PatientBirthDate", "PatientSex", "IssuerOfPatientID")  # which one person has once
SUMMARY = (
    "PatientID",
    *PERSON,
    "StudyInstanceUID",
    "FrameOfReferenceUID",
    "Modality",
    "SeriesDescription",
    "ProtocolName",
    "ImageType",
    "SOPClassUID",
    "SyntheticData",
)
CAPTURE = "1.2.840.10008.5.1.4.1.1.7"  # Secondary Capture Image Storage, and its multi-frame kinds
# what an image is -> values of ImageType, and words of the description or the protocol
NO_SCAN = {
    "a localizer": ({"LOCALIZER"}, r"locali[sz]er|scout|survey|topogram"),
    "a screen capture": (set(), r"dose.?report|screen.?save"),
    "no magnitude image": (
        {"P", "PHASE", "PHASE MAP", "R", "REAL", "I", "IMAGINARY", "VELOCITY"},
        r"\bpha\b",
    ),
    "a projection": ({"MIP", "MNIP", "MINIP", "PROJECTION IMAGE"}, r"\bmi(?:ni)?p\b"),
    "a subtraction": ({"SUB", "SUBTRACT", "SUBTRACTION"}, r"\bsubtract"),
}
# trained on only if a pattern chooses it
EXCLUDED = ("a localizer", "a screen capture", "a synthetic image")


@dataclass(frozen=True)
class Series:
    """One scan of a tree, with texts from its header."""

    scan: Scan
    place: Parts  # its folders below the root
    said: dict[str, str]  # the elements in SUMMARY as text, "" where absent
    label: str  # modality and description for messages, without names

    @classmethod
    def of(cls, scan: Scan, root: Path) -> Series:
        """Read the header of a scan's first file; UserError where it cannot be read."""
        found = room("slices").header(scan.files[0])
        names = room("names")
        said = {name: names.value_of(found, name) for name in SUMMARY}
        modality = names.text_of(found, "Modality")
        description = names.description_without_names(found, "SeriesDescription")
        label = f"{modality} {description}"
        return cls(scan, scan.files[0].parent.relative_to(root).parts, said, label)

    @property
    def words(self) -> Parts:
        """The series' description and protocol."""
        return self.said["SeriesDescription"], self.said["ProtocolName"]

    @property
    def is_excluded(self) -> bool:
        """Whether it is a localizer, a screen capture or written by gantk: then used only if a
        pattern matches it.
        """
        return no_scan(self.said) in EXCLUDED

    @property
    def texts(self) -> Parts:
        """What may say its contrast: description, protocol and folders."""
        return *self.words, *reversed(self.place)

    @property
    def contrast(self) -> str:
        """What its header and folders say; "" if nothing."""
        return contrast_of_series(self.said["Modality"], self.texts)

    def means(self, domain: str) -> bool:
        """Whether it belongs to a domain: CT, MR, PET by modality, others by what is said; an
        unusual name by a text before the first that says a contrast.
        """
        wanted = one_word(domain)
        contrast = "" if wanted in KINDS_OF_CT else CONTRASTS.get(wanted, "")
        if contrast in MODALITIES:
            return self.said["Modality"] == MODALITIES[contrast]
        if contrast:
            return same_contrast(self.contrast, wanted)

        unsaid = takewhile(lambda text: not contrast_of_series("MR", [text]), self.texts)
        return any(wanted in {*map(str.lower, words_of(text)), one_word(text)} for text in unsaid)


@dataclass(kw_only=True)
class Dicom(VolumeSource):
    """DICOM folders as archives and scanners export them. Each series is a scan, whatever its files
    are called.

    gantk assigns a series to a domain by its modality (CT, MR, PET), or by the contrast in its
    description, protocol or folder names. Patients come from the headers. A T1 and a T2 of one
    study and frame of reference are a registered pair if they have the same grid. With `onto` they
    are resampled onto one grid by their headers. Localizers, screen captures, results of gantk and
    files without an image are ignored.
    """

    # word or regex in the description, protocol or folder of the first domain; "" = domain name
    a: str = ""
    b: str = ""  # same for the second domain
    # resample a study's other image onto the grid of this one, by their headers
    onto: Onto = "none"
    # regex whose group is the patient, searched in the folder, then in PatientID; "" = PatientID
    patient: str = ""

    one_contrast = True

    def __post_init__(self):
        super().__post_init__()
        self.patterns = {"a": regex_option(self.a, "a"), "b": regex_option(self.b, "b")}
        self.patterns["image"] = self.patterns["a"]

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
        found = []
        for scan in io.scans(self.root):
            if not io.is_image(scan.path):
                with suppress(UserError):  # skip unreadable files
                    found.append(Series.of(scan, self.root))

        chosen = {letter: self._of_domain(letter, found) for letter in self.names}
        names = [{series.scan.name for series in own} for own in chosen.values()]
        twice = set.intersection(*names) if len(names) > 1 else None
        if twice:
            what = f"'{min(twice)}' belongs to both domains, {' and '.join(self.domains)}"
            remedy = f"make data.source.a and data.source.b more specific. {FILL_IN_TABLE}"
            raise UserError(what, where="data.source", remedy=remedy)

        used = [series for own in chosen.values() for series in own]
        rows = [self._row(letter, series) for letter, own in chosen.items() for series in own]
        doubts = self.read_patients([row for row in rows if not row.subject])
        splits = splits_of([series.place for series in used])
        for row, series, split in zip(rows, used, splits, strict=True):
            row.fill("split", split or "", "a folder's name")
            # registered scans share study and frame of reference
            study = series.said["StudyInstanceUID"], series.said["FrameOfReferenceUID"]
            pair = room("names").study_pseudonym(row.subject, study)
            row.fill("pair", pair, "study and frame of reference")
        self.doubts = doubts if self.pattern else [*_doubts_about_people(used), *doubts]
        return Catalog(rows, self.doubts)

    def _of_domain(self, letter: str, found: Sequence[Series]) -> list[Series]:
        pattern = self.patterns[letter]
        name = self.names[letter]
        if pattern is not None:
            chosen = []
            for series in found:
                texts = (*series.words, "/".join(series.place))
                if any(map(pattern.search, texts)):
                    chosen.append(series)
        else:
            scans = [series for series in found if not series.is_excluded]
            chosen = [series for series in scans if series.means(name)]
            if not chosen and len(self.domains) == 1:
                if any(exclude(one.contrast, usual_contrast(name)) for one in scans):
                    chosen = []
                else:
                    chosen = scans

        if not chosen:
            examples = [f"'{one.scan.name}' ({one.label})" for one in found[:4]]
            there = f"; it has {', '.join(examples)}" if found else " and no other series"
            allowed = (
                "a word or regular expression that occurs in SeriesDescription, ProtocolName or the"
                " folder's name"
            )
            said = {one.contrast for one in found if not one.is_excluded}
            raise self.nothing_of(
                letter, f"no DICOM series of {name} in '{self.root}'{there}", allowed, said
            )

        return chosen

    def _row(self, letter: str, series: Series) -> Row:
        place = "/".join((*series.place, series.scan.path.name))
        names = room("names")
        identifier = series.said["PatientID"]
        subject = names.pseudonym(identifier)
        if self.pattern and (self.pattern.search(place) or not identifier):
            subject = patient_of(place, self.pattern)
        elif self.pattern:
            subject = names.pseudonym(patient_of(identifier, self.pattern))

        row = Row(series.scan.files, series=series.scan)
        row.fill("contrast", self.names[letter], "the header or the folders")
        row.fill("subject", subject, "the header, or data.source.patient")
        return row


def _doubts_about_people(found: Iterable[Series]) -> list[UserError]:
    """The error for identifiers that stand for several people, or that differ in upper and lower
    case alone: the first, and how many there are.
    """
    by_identifier: dict[str, list[Series]] = {}
    for series in found:
        identifier = series.said["PatientID"]
        if identifier:
            by_identifier.setdefault(identifier.casefold(), []).append(series)

    contradictions = [*filter(None, map(_contradiction, by_identifier.values()))]
    if not contradictions:
        return []
    count = count_noun(contradictions, "PatientID")
    what = f"{contradictions[0]}, so it is not sure whose scans they are ({count} in all)"
    remedy = (
        "name the patients by data.source.patient = REGEX, whose group is the patient in a path."
        f" {FILL_IN_TABLE}"
    )
    return [UserError(what, where="data.source.patient", remedy=remedy)]


def _contradiction(found: Sequence[Series]) -> str:
    """In what headers with one identifier differ that one person has once; "" if in nothing."""
    for element in ("PatientID", *PERSON):
        first = {series.said[element]: series for series in found if series.said[element]}
        if len(first) > 1:
            one, other = (f"'{series.scan.name}'" for series in [*first.values()][:2])
            if element == "PatientID":
                return f"the PatientIDs of {one} and {other} differ in upper and lower case alone"
            return f"{one} and {other} have one PatientID, but another {element}"
    return ""


def no_scan(said: Mapping[str, str]) -> str:
    """What an image is by the elements in SUMMARY, where it is not what a scanner measured: `a
    localizer`; "" for a scan.
    """
    if said["SyntheticData"] == "YES" or said["SeriesDescription"].endswith(MARK):
        return "a synthetic image"
    is_capture = said["SOPClassUID"].startswith(CAPTURE)
    if is_capture and said["Modality"] in MODALITIES.values():
        return "a screen capture"

    types = room("names").types_of(said["ImageType"])
    words = f"{said['SeriesDescription']} {said['ProtocolName']}"
    for what, (values, pattern) in NO_SCAN.items():
        if types & values or re.search(pattern, words, re.IGNORECASE):
            return what
    return ""
