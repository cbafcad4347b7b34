"""What may be shown of a header: a pseudonym for who it is of, texts that are whole, descriptions without names.

A pseudonym hides a name from whoever reads a report. It does not make data anonymous: short identifiers can be found
again by hashing all there are.
"""

from __future__ import annotations

import hashlib
import re

import numpy as np
from pydicom.datadict import dictionary_VR, keyword_for_tag
from pydicom.dataset import Dataset
from pydicom.tag import BaseTag

from gantk.formats.contrasts import CONTRASTS

# Elements whose words say who somebody is, beside all those that hold a person's name.
NAMING = """
PatientID OtherPatientIDs PatientBirthDate PatientAddress PatientTelephoneNumbers MedicalRecordLocator AccessionNumber
InstitutionName InstitutionAddress AdmissionID
"""


class Pseudonym(str):
    """A text that stands for another one (`of`) wherever it is shown or written, and is sorted as that one would be.

    So what is drawn from sorted patients is the same as with their own names.
    """

    of: str

    def __new__(cls, shown: str, of: str):
        made = super().__new__(cls, shown)
        made.of = of
        return made

    def __getnewargs__(self):
        return str(self), self.of

    def __add__(self, tail: str) -> Pseudonym:
        return Pseudonym(str(self) + tail, self.of + tail)

    def __lt__(self, other: str) -> bool:
        return self.of < getattr(other, "of", other)

    def __gt__(self, other: str) -> bool:
        return self.of > getattr(other, "of", other)


def pseudonym(identifier: str) -> str:
    """`patient-` and 8 digits of a hash in place of a patient's identifier; "" where there is none."""
    return Pseudonym(f"patient-{_hashed(identifier)}", identifier) if identifier else ""


def study_pseudonym(patient: str, study: tuple[str, str]) -> str:
    """The same for a patient's study and frame of reference; "" where one of them is not known."""
    raw = "/".join((getattr(patient, "of", patient), *study))
    return Pseudonym(f"{patient}/{_hashed(raw)}", raw) if all(study) else ""


def _hashed(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:8]


def value_of(dataset: Dataset, keyword: str | BaseTag) -> str:
    """An element's value as text, "" where it is absent or broken: to compare and to hash, never to show."""
    try:
        return str(dataset[keyword].value or "").strip()
    except Exception:  # it is not there, or is what makes pydicom raise anything
        return ""


def text_of(dataset: Dataset, keyword: str) -> str:
    """An element's value as text that may be shown, "" where it is absent or broken.

    Control characters or more than 64 others are no text: in a damaged file they are what follows the element.
    """
    text = value_of(dataset, keyword).strip("\0")
    return text if len(text) <= 64 and text.isprintable() else ""


def first_number(dataset: Dataset, keyword: str) -> float | None:
    """An element's number, or the first of several; None where it is absent or broken."""
    try:
        return float(np.ravel(dataset.get(keyword))[0])
    except Exception:  # as above, and of what is no number
        return None


def shown(dataset: Dataset, keyword: str) -> str:
    """The text of a description without the words that name somebody: those of the header's names and identifiers."""
    text = text_of(dataset, keyword)
    tags = [tag for tag in list(dataset.keys()) if text and (keyword_for_tag(tag) in NAMING.split() or _is_name(tag))]
    words = {word for tag in tags for word in re.findall(r"[^\W_]{2,}", value_of(dataset, tag))}
    for word in sorted((word for word in words if word.lower() not in CONTRASTS), key=len, reverse=True):
        whole = rf"(?<![^\W_]){re.escape(word)}(?![^\W_])"
        text = re.sub(whole if len(word) < 4 else re.escape(word), "", text, flags=re.IGNORECASE)
    return text.strip()


def _is_name(tag: BaseTag) -> bool:
    try:
        return dictionary_VR(tag) == "PN"
    except KeyError:  # private, or unknown
        return False
