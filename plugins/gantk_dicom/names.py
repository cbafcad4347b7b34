"""Reads header texts that may be shown: pseudonyms for patients, undamaged texts, descriptions
without names.

A pseudonym hides a name from readers of a report. It does not make data anonymous: a short
identifier can be found by hashing all possible ones.
"""

from __future__ import annotations

import hashlib
import re

import numpy as np
from pydicom.datadict import dictionary_has_tag, dictionary_VR, keyword_for_tag
from pydicom.dataset import Dataset
from pydicom.tag import BaseTag

from gantk.catalog.contrasts import CONTRASTS, NATIVE
from gantk.formats.image import MARK, SeriesHeader

# Elements that identify a person, in addition to all elements of type PN (person name).
NAMING = """
PatientID OtherPatientIDs PatientBirthDate PatientAddress PatientTelephoneNumbers
MedicalRecordLocator AccessionNumber InstitutionName InstitutionAddress AdmissionID
"""


OF_SERIES = ("SeriesDescription", "ProtocolName")
DESCRIPTIONS = (*OF_SERIES, "StudyDescription")
AGE_UNITS = {"D": 365.25, "W": 52.18, "M": 12, "Y": 1}  # of PatientAge, how many are a year

HEAD = re.compile(
    r"head|brain|skull|cereb|cran|kopf|tete|ence[fp]|neuro|sch[aä]del|hirn", re.IGNORECASE
)
PERSON = (
    "PatientID",
    "PatientBirthDate",
    "PatientSex",
    "IssuerOfPatientID",
)  # which one person has once
MODALITIES = ("CT", "MR", "PT")  # whose scans are trained on
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
MAX_TESLA = 25  # a larger field strength is in another unit


class Pseudonym(str):
    """A text that replaces another one (`of`) wherever it is shown or written, and sorts like the
    original.

    A random draw from sorted patients is therefore the same as with their real names.
    """

    of: str

    def __new__(cls, shown: str, of: str):
        made = super().__new__(cls, shown)
        made.of = of
        return made

    def __getnewargs__(self):
        return str(self), self.of

    def __lt__(self, other: str) -> bool:
        return self.of < getattr(other, "of", other)

    def __gt__(self, other: str) -> bool:
        return self.of > getattr(other, "of", other)


def pseudonym(identifier: str) -> str:
    """Replace a patient's identifier by `patient-` and 8 digits of its hash; "" if it is empty."""
    return Pseudonym(f"patient-{_short_hash(identifier)}", identifier) if identifier else ""


def study_pseudonym(patient: str, study: str, frame: str) -> str:
    """A pseudonym for a patient's study and frame of reference; "" where one of them is unknown."""
    raw = f"{getattr(patient, 'of', patient)}/{study}/{frame}"
    return Pseudonym(f"{patient}/{_short_hash(raw)}", raw) if study and frame else ""


def _short_hash(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:8]


def describe(found: Dataset) -> SeriesHeader:
    """What a header says of its series, without names of people."""
    modality = text_of(found, "Modality")
    study = value_of(found, "StudyInstanceUID")
    # without an identifier nothing says which studies are one person's, but one study is
    patient = pseudonym(value_of(found, "PatientID")) or pseudonym(study)
    frame = value_of(found, "FrameOfReferenceUID")
    agent = value_of(found, "ContrastBolusAgent").lower()
    return SeriesHeader(
        modality=modality,
        words=tuple(value_of(found, name) for name in OF_SERIES),
        label=f"{modality} {description_without_names(found)}",
        no_scan=no_scan(found),
        patient=patient,
        study=pseudonym(study),
        pair=study_pseudonym(patient, study, frame),
        agent=bool(agent) and not NATIVE.search(f" {agent} "),
        person={name: value_of(found, name) for name in (*PERSON, "PatientName")},
    )


def value_of(dataset: Dataset, keyword: str | BaseTag) -> str:
    """An element's value as text, "" where it is absent or damaged: for comparing and hashing,
    never for showing.
    """
    try:
        return str(dataset[keyword].value or "").strip()
    except Exception:  # absent, or damaged: pydicom can raise any exception
        return ""


def text_of(dataset: Dataset, keyword: str) -> str:
    """An element's value as text that may be shown, "" where it is absent or damaged.

    Texts with control characters or more than 64 characters are not shown: in a damaged file they
    may be other data.
    """
    text = value_of(dataset, keyword).strip("\0")
    return text if len(text) <= 64 and text.isprintable() else ""


def types_of(text: str) -> set[str]:
    """The values of ImageType, as of `value_of`."""
    return {value.strip() for value in re.findall(r"[^'\[\],]+", text)}


def first_number(dataset: Dataset, keyword: str) -> float | None:
    """An element's number, or the first of several; None where it is absent or damaged."""
    try:
        return float(np.ravel(dataset.get(keyword))[0])
    except Exception:  # as above, or not a number
        return None


def age_in_years(dataset: Dataset) -> float | None:
    """The patient's age, such as `018M`; None where the header does not say it."""
    said = re.fullmatch(r"(\d{1,3})([DWMY])", text_of(dataset, "PatientAge"))
    return int(said[1]) / AGE_UNITS[said[2]] if said else None


def body_part(dataset: Dataset) -> str | None:
    """The examined part of the body: `head` for all names of head and brain, else the header's word
    in lower case; None where neither it nor a description says it.
    """
    said = text_of(dataset, "BodyPartExamined").lower()
    described = said or " ".join(text_of(dataset, name) for name in DESCRIPTIONS)
    return "head" if HEAD.search(described) else said or None


def field_strength(dataset: Dataset) -> float | None:
    """The magnet's field strength in T; None where the header does not say it in T."""
    tesla = first_number(dataset, "MagneticFieldStrength")
    return tesla if tesla and 0 < tesla <= MAX_TESLA else None


def description_without_names(dataset: Dataset) -> str:
    """The description of a series, or else its protocol, without any word that occurs in the header's
    names and identifiers.
    """
    text = next(filter(None, (text_of(dataset, name) for name in OF_SERIES)), "")
    tags = [
        tag
        for tag in list(dataset.keys())
        if text
        and dictionary_has_tag(tag)
        and (keyword_for_tag(tag) in NAMING.split() or dictionary_VR(tag) == "PN")
    ]
    words = {word for tag in tags for word in re.findall(r"[^\W_]{2,}", value_of(dataset, tag))}
    for word in sorted(
        (word for word in words if word.lower() not in CONTRASTS), key=len, reverse=True
    ):
        whole = rf"(?<![^\W_]){re.escape(word)}(?![^\W_])"
        text = re.sub(whole if len(word) < 4 else re.escape(word), "", text, flags=re.IGNORECASE)

    return text.strip()


def no_scan(found: Dataset) -> str:
    """What an image is by its header, where it is not what a scanner measured: `a localizer`; ""
    for a scan.
    """
    said = [value_of(found, name) for name in OF_SERIES]
    if value_of(found, "SyntheticData") == "YES" or said[0].endswith(MARK):
        return "a synthetic image"
    is_capture = value_of(found, "SOPClassUID").startswith(CAPTURE)
    if is_capture and value_of(found, "Modality") in MODALITIES:
        return "a screen capture"

    types = types_of(value_of(found, "ImageType"))
    for what, (values, pattern) in NO_SCAN.items():
        if types & values or re.search(pattern, " ".join(said), re.IGNORECASE):
            return what
    return ""
