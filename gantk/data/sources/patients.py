"""The data source over patients who each have one file per contrast: T1, T1ce, T2, FLAIR side by side in a folder."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from gantk.data.items import Record, contrast_names, domain_letters
from gantk.data.resample import SamplingGrid
from gantk.data.sources.contrast_names import MEANING, contrast_in, plain, same_contrast
from gantk.data.sources.file_names import SPLIT_WORD, split_of
from gantk.data.sources.masks import expect_one_grid, is_mask, set_masks_apart
from gantk.data.sources.reading import expect_several, needed_path, patient_of, patient_pattern
from gantk.data.sources.volumes import Item, Reader
from gantk.errors import UserError
from gantk.formats import files as io
from gantk.formats.files import difference

ENOUGH = 3  # contrasts in a folder from which on it is taken for a patient's when nobody said so


@dataclass(frozen=True)
class Patient:
    """One folder of files on one grid."""

    folder: Path
    key: str  # the folder relative to the root
    subject: str
    split: str | None
    files: dict[str, Path | None]  # by contrast
    mask: Path | None


class Contrasts:
    """Patients' folders that hold one file for each contrast, all on one grid: registered pairs of N and M channels.

    A domain such as "T1+T1ce+FLAIR" becomes one image with a channel for each contrast, matched by the words of the
    files' names. A contrast that a patient lacks is a channel of NaN (`Record.missing` names it); a domain without
    any has no record. Where most folders are numbered, the others (templates, atlases) are left alone.
    """

    def __init__(
        self,
        domains: tuple[str, ...],
        dims: int,
        size: tuple[int, ...],
        *,
        path: str = "",  # folder below which the patients' folders lie
        mask: str = "",  # word or glob that names lesion masks, such as seg or mask*; "" = there are none
        patient: str = "",  # regex whose group is the patient, searched in the folder's path; "" = its numbered part
        planes: tuple[float, float] = (0.25, 0.75),  # which slices of a volume 2-D networks see, as shares of its stack
    ):
        self.root, self.mask = needed_path(path, "contrasts"), mask
        self.contrasts = dict(zip(domain_letters(domains), map(contrast_names, domains), strict=True))
        self.domains, self.dims = domains, dims
        self.patient, self.planes = patient_pattern(patient), planes
        self.reader = Reader(dims, 1)

    @classmethod
    def accepts(cls, path: Path) -> dict | None:
        """`{"path": ...}` where two folders, or one of volumes, hold three or more contrasts known by name each."""
        try:
            images = io.list_images(path, recursive=True)
        except UserError:
            return None
        folders: dict[Path, set[str]] = defaultdict(set)
        volumes = set()
        for image in images:
            name = MEANING.get(contrast_in(io.stem_of(image), set())[0] or "")
            if name:
                folders[image.parent].add(name)
            if io.is_volume(image):
                volumes.add(image.parent)
        patients = {folder for folder, names in folders.items() if len(names) >= ENOUGH}
        return {"path": str(path)} if len(patients) > 1 or patients & volumes else None

    def sees(self, view: SamplingGrid) -> None:
        """Take the slices of volumes along this plane, at this spacing: asked for before `records`."""
        self.reader.view = view

    def records(self) -> list[Record]:
        """One record of each domain for every patient, or for every plane; UserError for files on different grids."""
        patients = self._patients()
        records = [record for patient in patients for record in self._records_of(patient)]
        for letter, domain in zip(self.contrasts, self.domains, strict=True):
            expect_several([record for record in records if record.domain == letter], domain, self.root)
        return records

    def _patients(self) -> list[Patient]:
        images, masks = set_masks_apart(io.list_images(self.root, recursive=True), self.root, self.mask)
        folders: dict[Path, list[Path]] = defaultdict(list)
        for image in images:
            folders[image.parent].append(image)
        wanted = tuple(dict.fromkeys(name for names in self.contrasts.values() for name in names))
        files = {folder: assigned(images, wanted) for folder, images in folders.items()}
        files = {folder: found for folder, found in files.items() if any(found.values())}
        if not files:
            shown = ", ".join(f"'{image.relative_to(self.root)}'" for image in images[:4])
            raise UserError(
                f"no folder in '{self.root}' holds a file named {' or '.join(wanted)}"
                + (f"; there are {shown}" * bool(shown)),
                where="data.domains",
                allowed="words of the files' names, joined by + within a domain: T1+FLAIR",
            )
        numbered = [folder for folder in files if _numbered(folder.relative_to(self.root).parts)]
        kept = numbered if 2 * len(numbered) > len(files) else list(files)
        beside: dict[Path, list[Path]] = defaultdict(list)
        for mask in masks:
            beside[mask.parent].append(mask)
        splits = {split_of(folder.relative_to(self.root).parts) for folder in kept} - {None}
        return [self._patient(folder, files[folder], beside[folder], len(splits) > 1) for folder in kept]

    def _patient(self, folder: Path, files: dict[str, Path | None], masks: list[Path], said: bool) -> Patient:
        parts = folder.relative_to(self.root).parts
        key = "/".join(parts) or folder.resolve().name
        own = [part for part in parts if not SPLIT_WORD.match(part)] or [key]
        numbers = [part for part in own if any(map(str.isdigit, part))]
        subject = patient_of(key, self.patient) if self.patient else numbers[0] if numbers else "/".join(own)
        present = [file for file in files.values() if file is not None]
        for file in present[1:]:
            differs = difference(present[0], file)
            if differs:
                raise UserError(
                    f"'{present[0]}' and '{file}' are of one patient, and on different grids: {differs}",
                    where="data.source.path",
                    remedy="register and resample a patient's files onto one grid first",
                )
        if len(masks) > 1:
            raise UserError(f"'{folder}' holds two masks: '{masks[0].name}' and '{masks[1].name}'",
                            where="data.source.mask", remedy="name the masks more exactly, or with a glob")  # fmt: skip
        if masks:
            expect_one_grid(masks[0], present[0])
        return Patient(folder, key, subject, split_of(parts) if said else None, files, masks[0] if masks else None)

    def _records_of(self, patient: Patient) -> list[Record]:
        first = next(file for file in patient.files.values() if file is not None)
        found = []
        for plane in self.reader.planes(Item("", first, patient.key), self.planes):
            key = patient.key + ("" if plane is None else f"/plane-{plane:03d}")
            for letter, names in self.contrasts.items():
                files = tuple(patient.files[name] for name in names)
                present = [file for file in files if file is not None]
                if not present:
                    continue
                items = tuple(file and Item(letter, file, key, mask=patient.mask) for file in files)
                found.append(
                    Record(
                        domain=letter,
                        subject=patient.subject,
                        key=key,
                        read=partial(self._read, items, plane),
                        pair=key if len(self.contrasts) > 1 else None,
                        position=None if plane is None else float(plane),
                        path=present[0],
                        others=tuple(present[1:]),
                        split=patient.split,
                        mask=None if patient.mask is None else partial(self._mask, items, plane),
                        missing=tuple(name for name, file in zip(names, files, strict=True) if file is None),
                        scan=None if plane is None else partial(self._scan, items),
                        scan_key="" if plane is None else patient.key,
                    )
                )
        return found

    def _read(self, items: tuple[Item | None, ...], plane: int | None) -> np.ndarray:
        """float32 (contrasts, *spatial); NaN where the patient lacks one."""
        return _stacked([None if item is None else self.reader.read(item, plane)[0] for item in items])

    def _scan(self, items: tuple[Item | None, ...]) -> np.ndarray:
        return _stacked([None if item is None else self.reader.scan(item)[0] for item in items])

    def _mask(self, items: tuple[Item | None, ...], plane: int | None) -> np.ndarray:
        return self.reader.mask(next(item for item in items if item is not None), plane)


def _stacked(channels: Sequence[np.ndarray | None]) -> np.ndarray:
    shape = next(channel.shape for channel in channels if channel is not None)
    return np.stack([np.full(shape, np.nan, np.float32) if one is None else one for one in channels])


def contrast_files(folder: Path, contrasts: Sequence[str], mask: str = "") -> dict[str, Path | None]:
    """The file of each contrast in one patient's folder, None where there is none; two for one are a UserError."""
    images = io.list_images(folder)
    return assigned([image for image in images if not is_mask(image, Path(folder), mask)], contrasts)


def assigned(images: Sequence[Path], contrasts: Sequence[str]) -> dict[str, Path | None]:
    """The image of each contrast: by its very name, else by a usual synonym (T1w for T1, T1Gd for T1ce)."""
    wanted = {contrast: plain(contrast) for contrast in contrasts}
    words = {image: contrast_in(io.stem_of(image), set(wanted.values()))[0] for image in images}
    found: dict[str, Path | None] = {}
    for contrast, word in wanted.items():
        fitting = [image for image in images if words[image] == word]
        if not fitting:
            others = set(wanted.values()) - {word}
            means = [image for image in images if words[image] not in others]
            fitting = [image for image in means if same_contrast(words[image] or "", word)]
        if len(fitting) > 1:
            raise UserError(
                f"'{fitting[0].parent}' holds two files of {contrast}: '{fitting[0].name}' and '{fitting[1].name}'",
                where="data.source.path",
                remedy="leave one of them out, or name the one that is no image with mask",
            )
        found[contrast] = fitting[0] if fitting else None
    return found


def _numbered(parts: Sequence[str]) -> bool:
    return any(any(map(str.isdigit, part)) for part in parts)
