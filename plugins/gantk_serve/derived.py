"""UIDs of derived series: functions of inputs and model, so that what is made again after a kill
replaces what a PACS already has.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import pydicom

from gantk import __version__

MARK = "(gantk)"  # ends the SeriesDescription of what gantk writes


def name_results(folder: Path, job: str, model: dict[str, str]) -> list[Path]:
    """Give the DICOM files of a translation their UIDs and the model's name; returns them, sorted.

    Args:
        folder: the results, a series or several in folders of their own.
        job: the number of the translation, a function of its inputs.
        model: as of `TrainedModel.identity`.
    """
    files = sorted(path for path in folder.rglob("*.dcm") if path.is_file())
    key = f"{job}/{model['sha256']}"
    for file in files:
        place = file.relative_to(folder)
        dataset = pydicom.dcmread(file)
        dataset.SeriesInstanceUID = uid_of(f"{key}/{place.parent.as_posix()}")
        dataset.SOPInstanceUID = uid_of(f"{key}/{place.as_posix()}")
        dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
        dataset.SeriesDescription = _description(str(dataset.SeriesDescription), model["name"])
        dataset.save_as(file, enforce_file_format=True)
    return files


def uid_of(text: str) -> str:
    """A UID that is a function of a text (PS3.5, B.2: 2.25. and a 128-bit number)."""
    digest = hashlib.sha256(text.encode()).digest()
    return f"2.25.{int.from_bytes(digest[:16], 'big')}"


def _description(written: str, model: str) -> str:
    """The description with the model's name and gantk's version: at most 64 characters."""
    shown = written.removesuffix(MARK).strip()
    ending = f" {__version__} {MARK}"
    start = f"{shown}, {model.split(' (')[0]}"
    return start[: 64 - len(ending)] + ending
