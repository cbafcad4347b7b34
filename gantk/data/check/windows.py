"""Patients whose pictures have other gray values than those of the others: pictures have no unit, and
whoever exported them chose a window.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np

from gantk.data.check.findings import Problem, problem
from gantk.data.look import distance, tissue_quantiles
from gantk.data.preparation import Record
from gantk.data.spread import spread

MIN_PATIENTS = 4
MAX_PATIENTS = 40
MAX_IMAGES = 6  # of a patient
WHITE = 255
# between a patient's quantiles and the others', see `gantk.data.look.distance`: of CT exported with
# another window 0.18, of eleven other patients and contrasts 0.04 to 0.09
MIN_DISTANCE = 0.12
MIN_RATIO = 2.0  # to the median of the patients


def other_windows(records: Iterable[Record], names: Mapping[str, str]) -> Iterator[Problem]:
    """Warn of patients whose pictures of a domain are much brighter or darker than the others'."""
    owned: dict[str, dict[str, list[Record]]] = defaultdict(lambda: defaultdict(list))
    for record in records:
        if record.subject and record.file and not record.file.row.is_volume:
            owned[record.domain][record.subject].append(record)
    for letter, patients in owned.items():
        chosen = spread([*patients], MAX_PATIENTS)
        measured = {patient: _quantiles_of(patients[patient]) for patient in chosen}
        known = {patient: own for patient, own in measured.items() if own is not None}
        if len(known) < MIN_PATIENTS:
            continue
        total = sum(known.values())
        distances = {
            patient: distance(own, (total - own) / (len(known) - 1))
            for patient, own in known.items()
        }
        least = max(MIN_DISTANCE, MIN_RATIO * float(np.median([*distances.values()])))
        odd = [patient for patient, far in distances.items() if far > least]
        if odd:
            what = (
                f"the {names[letter]} of these patients is brighter or darker than that of the others,"
                " perhaps exported with another window:"
            )
            yield replace(problem("windows", what, odd), leave_out=odd)


def _quantiles_of(records: Sequence[Record]) -> np.ndarray | None:
    """The mean quantiles of a patient's pictures of 8 bits; None of other images, and of blank ones."""
    images = [record.read() for record in spread(records, MAX_IMAGES)]
    if not all(np.array_equal(image, np.clip(np.rint(image), 0, WHITE)) for image in images):
        return None
    found = [tissue_quantiles(image.ravel()) for image in images if np.ptp(image)]
    return np.mean(found, axis=0) if found else None
