"""Names of patients that may be one person's: `p1` and `P_01`."""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable

from gantk.catalog.words import without_visits


def people_of_two_names(patients: Iterable[str]) -> list[list[str]]:
    """Groups of names that may be one person's: that differ only in case, separators, leading zeros,
    `.0` or a date.
    """
    spellings: dict[str, list[str]] = defaultdict(list)
    for patient in patients:
        spellings[_plain_name(patient)].append(patient)
    if len(spellings) == 1:  # what all names share says nothing of the patient
        return []
    return [names for names in spellings.values() if len(names) > 1]


def _plain_name(patient: str) -> str:
    """A patient's name without what programs add: `p1` of `P_01`, `p1.0` and `2020-01-02_p1`."""
    identifier = getattr(patient, "of", patient)  # what a pseudonym of DICOM stands for
    name = without_visits(unicodedata.normalize("NFKC", identifier).casefold())
    name = re.sub(r"\.0+$", "", name)
    name = re.sub(r"(?<!\d)0+(?=\d)", "", name)
    return re.sub(r"(?<!\d)[\W_]+|[\W_]+(?!\d)", "", name)
