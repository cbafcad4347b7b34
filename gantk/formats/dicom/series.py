"""A folder of DICOM files to the series in it, from their headers alone."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset

from gantk.errors import UserError
from gantk.formats.dicom.header import frames_of, header, no_image, readable
from gantk.formats.dicom.slices import TAGS, Slice, slices_of
from gantk.formats.dicom.stacks import separated
from gantk.formats.files import Scan, natural

PLANES = ("sagittal", "coronal", "axial")  # by the axis of the patient along which slices follow


@dataclass(frozen=True, eq=False)
class Found:
    """One scan among the files of a folder, and the header of its first file."""

    scan: Scan
    header: Dataset | None  # the elements of TAGS; None where the file cannot be read


def series_in(folder: Path, files: Sequence[Path]) -> list[Scan]:
    """The scans among a folder's files, in natural order of their names."""
    return [found.scan for found in survey(folder, files)]


def not_images(files: Sequence[Path]) -> dict[Path, str]:
    """What the files are that hold no image, and can be read."""
    kinds = {}
    for file in files:
        try:
            kind = no_image(header(file, TAGS))
        except UserError:
            continue
        if kind:
            kinds[file] = kind
    return kinds


def survey(folder: Path, files: Sequence[Path]) -> list[Found]:
    """The scans among a folder's files, each with a header."""
    alone: list[Found] = []
    series: dict[str, list[tuple[Slice, Dataset]]] = {}
    for file in files:
        try:
            with readable(file):
                dataset = header(file, TAGS)
                if no_image(dataset):
                    continue
                uid = str(dataset.get("SeriesInstanceUID") or "")
                single = frames_of(dataset) > 1 or not uid
                slices = [] if single else slices_of(dataset, file)
        except UserError:  # reading it will say why
            dataset, single = None, True
        if single or slices[0].position is None:
            alone.append(Found(Scan(file, (file,), file.name), dataset))
        else:
            series.setdefault(uid, []).append((slices[0], dataset))
    found = alone + _told_apart([each for parts in series.values() for each in _stacks(Path(folder), parts)])
    return sorted(found, key=lambda each: natural(each.scan.name))


def _stacks(folder: Path, parts: list[tuple[Slice, Dataset]]) -> list[Found]:
    """The stacks of one series; names tell apart what its header tells apart."""
    headers = {each.path: dataset for each, dataset in parts}
    stacks = separated([each for each, _ in parts])
    name = _series_name(parts[0][1])
    labels = [_label(stack, stacks) for stack in stacks]
    found = []
    for k, (stack, label) in enumerate(zip(stacks, labels, strict=True)):
        files = tuple(each.path for each in stack)
        number = str(labels[: k + 1].count(label)) if labels.count(label) > 1 else ""
        own = "-".join(filter(None, (name, label, number)))
        scan = Scan(files[0], files, files[0].name) if len(files) == 1 else Scan(folder, files, own)
        found.append(Found(scan, headers[files[0]]))
    return found


def _told_apart(found: list[Found]) -> list[Found]:
    """Series of one name get their patients' names, or numbers."""
    named: dict[str, list[Found]] = {}
    for each in found:
        named.setdefault(each.scan.name, []).append(each)
    done = []
    for name, alike in named.items():
        patients = [_as_name(str(each.header.get("PatientID") or "")) for each in alike]
        tails = patients if len(set(patients)) == len(alike) else [str(k + 1) for k in range(len(alike))]
        for each, tail in zip(alike, tails, strict=True):
            own = name if len(alike) == 1 else f"{name}-{tail}"
            done.append(replace(each, scan=replace(each.scan, name=own)))
    return done


def _series_name(dataset: Dataset) -> str:
    """`NUMBER-DESCRIPTION` as a file's name."""
    words = dataset.get("SeriesDescription") or dataset.get("ProtocolName") or dataset.get("Modality") or "series"
    text = _as_name(str(words))
    number = dataset.get("SeriesNumber")
    return "-".join(filter(None, ("" if number is None else str(number), text))) or "series"


def _as_name(words: str) -> str:
    """Words as a part of a file's name."""
    return re.sub(r"[^\w.+-]+", "_", words).strip("._")[:64]


def _label(stack: list[Slice], stacks: list[list[Slice]]) -> str:
    """What tells a stack from the others of its series: its plane, else the marks in which it differs."""
    if len(stacks) == 1:
        return ""
    planes = [_plane(other[0]) for other in stacks]
    words = [_plane(stack[0])] if len(set(planes)) > 1 else []
    for mark, value in stack[0].marks.items():
        alike = [other for other in stacks if _plane(other[0]) == _plane(stack[0])]
        if len(alike) > 1 and len({other[0].marks.get(mark) for other in alike}) > 1 and value not in (None, ()):
            shown = "_".join(value) if isinstance(value, tuple) else str(value)
            words.append(f"{mark}_{re.sub(r'[^0-9A-Za-z.+-]+', '_', shown)[:40]}")
            break
    return "-".join(words)


def _plane(each: Slice) -> str:
    return PLANES[int(np.argmax(np.abs(each.normal)))]
