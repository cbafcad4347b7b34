"""Names of patients that may be one person's: `p1` and `P_01`."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter, defaultdict
from itertools import chain

from gantk.catalog.words import without_visits


def people_of_two_names(domains_of: dict[str, set[str]]) -> list[list[str]]:
    """Groups of names that may be one person's; `domains_of` are the contrasts of each patient.

    Names that differ only in case, separators, leading zeros, `.0` or a date; without any, names of
    two contrasts with the same numbers.
    """
    spellings: dict[str, list[str]] = defaultdict(list)
    for patient in domains_of:
        spellings[_plain_name(patient)].append(patient)

    groups = [names for names in spellings.values() if len(names) > 1]
    if len(spellings) == 1:  # what all names share says nothing of the patient
        groups = []
    return groups or _with_the_same_numbers(domains_of)


def _plain_name(patient: str) -> str:
    """A patient's name without what programs add: `p1` of `P_01`, `p1.0` and `2020-01-02_p1`."""
    identifier = getattr(patient, "of", patient)  # what a pseudonym of DICOM stands for
    name = without_visits(unicodedata.normalize("NFKC", identifier).casefold())
    name = re.sub(r"\.0+$", "", name)
    name = re.sub(r"(?<!\d)0+(?=\d)", "", name)
    return re.sub(r"(?<!\d)[\W_]+|[\W_]+(?!\d)", "", name)


def _with_the_same_numbers(domains_of: dict[str, set[str]]) -> list[list[str]]:
    """Groups of patients of two domains, each in one of them only, whose names have the same
    numbers; [] unless these are half of a domain's patients or more.
    """
    names_of: dict[tuple[int, ...], dict[str, str]] = defaultdict(dict)  # numbers, domain -> name
    for patient, domains in domains_of.items():
        numbers = tuple(map(int, re.findall(r"\d{1,18}", patient)))
        if len(domains) == 1 and numbers:
            names_of[numbers][next(iter(domains))] = patient
    groups = [[*names.values()] for names in names_of.values() if len(names) > 1]
    patients = Counter(chain.from_iterable(domains_of.values()))
    are_many = len(groups) > 1 and 2 * len(groups) >= min(patients.values())
    return groups if are_many else []
