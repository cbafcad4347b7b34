"""The data source over patients who each have one file per contrast: T1, T1ce, T2, FLAIR side by side in a folder."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from gantk.data.preparation import Record, contrast_names
from gantk.data.sources.file_names import SPLIT_WORD, images_below, numbered, only_if_several, patient_of, split_of
from gantk.data.sources.masks import expect_one_grid, expect_one_mask, is_mask, separate_masks
from gantk.data.sources.reader import Item
from gantk.data.sources.source import VolumeSource
from gantk.errors import UserError
from gantk.formats import files as io
from gantk.formats.contrasts import contrast_in, one_word, same_contrast, usual_contrast
from gantk.formats.files import difference

ENOUGH = 3  # contrasts in a folder from which on it is taken for a patient's when nobody said so
Files = dict[str, Path | None]  # the file of each contrast


class Contrasts(VolumeSource):
    """Patients' folders that hold one file for each contrast, all on one grid: registered pairs of N and M channels.

    A domain such as "T1+T1ce+FLAIR" becomes one image with a channel for each contrast, matched by the words of the
    files' names. A contrast that a patient lacks is a channel of NaN (`Record.missing` names it); a domain without
    any has no record. Where most folders are numbered, the others (templates, atlases) are left alone.
    """

    kind, found_for = "contrasts", (2,)

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
        self.set_up(domains, dims, path, planes, channels=1, patient=patient, mask=mask)
        self.contrasts = {letter: contrast_names(name) for letter, name in self.domains.items()}

    @classmethod
    def accepts(cls, path: Path) -> dict | None:
        """`{"path": ...}` where two folders, or one of volumes, hold three or more contrasts known by name each."""
        images = images_below(path)
        folders: dict[Path, set[str | None]] = defaultdict(set)
        for image in images:
            folders[image.parent].add(usual_contrast(io.stem_of(image)))
        patients = {folder for folder, names in folders.items() if len(names - {None}) >= ENOUGH}
        volumes = {image.parent for image in images if io.is_volume(image)}
        return {"path": str(path)} if len(patients) > 1 or patients & volumes else None

    def records(self) -> list[Record]:
        """One record of each domain for every patient, or for every plane; UserError for files on different grids."""
        images, masks = separate_masks(io.list_images(self.root, recursive=True), self.root, self.mask)
        wanted = tuple(dict.fromkeys(name for names in self.contrasts.values() for name in names))
        folders: dict[Path, list[Path]] = defaultdict(list)
        for image in images:
            folders[image.parent].append(image)
        files = {folder: assigned(own, wanted) for folder, own in folders.items()}
        files = {folder: own for folder, own in files.items() if any(own.values())}
        if not files:
            shown = ", ".join(f"'{image.relative_to(self.root)}'" for image in images[:4])
            what = f"no folder in '{self.root}' holds a file named {' or '.join(wanted)}"
            allowed = "words of the files' names, joined by + within a domain: T1+FLAIR"
            raise UserError(what + f"; there are {shown}" * bool(shown), where="data.domains", allowed=allowed)
        patients = [folder for folder in files if numbered(folder.relative_to(self.root).parts)]
        patients = patients if 2 * len(patients) > len(files) else list(files)
        splits = only_if_several(split_of(folder.relative_to(self.root).parts) for folder in patients)
        items = []
        for folder, split in zip(patients, splits, strict=True):
            masks_here = [mask for mask in masks if mask.parent == folder]
            items += self._of_patient(folder, files[folder], masks_here, split)
        places = {item.key: place for place, item in enumerate(items)}
        records = self.records_of(items)
        return sorted(records, key=lambda record: (places[record.scan_key or record.key], record.position or 0.0))

    def _of_patient(self, folder: Path, files: Files, masks: Sequence[Path], split: str | None) -> list[Item]:
        """The images of one patient's folder, whose files lie on one grid."""
        parts = folder.relative_to(self.root).parts
        key = "/".join(parts) or folder.resolve().name
        own = [part for part in parts if not SPLIT_WORD.match(part)] or [key]
        subject = next(iter(numbered(own)), "/".join(own))
        subject = patient_of(key, self.patient) if self.patient else subject
        first, *others = filter(None, files.values())
        for file in others:
            if differs := difference(first, file):
                what = f"'{first}' and '{file}' are of one patient, and on different grids: {differs}"
                remedy = "register and resample a patient's files onto one grid first"
                raise UserError(what, where="data.source.path", remedy=remedy)
        expect_one_mask(masks, folder)
        if masks:
            expect_one_grid(masks[0], first)
        common = {"mask": masks[0] if masks else None, "pair": key if len(self.contrasts) > 1 else None}
        items = []
        for letter, names in self.contrasts.items():
            present = [files[name] for name in names if files[name]]
            if present:
                contrasts = {name: files[name] for name in names}
                items.append(Item(letter, present[0], key, subject, split=split, contrasts=contrasts, **common))
        return items


def contrast_files(folder: Path, contrasts: Sequence[str], mask: str = "") -> Files:
    """The file of each contrast in one patient's folder, None where there is none; two for one are a UserError."""
    return assigned([image for image in io.list_images(folder) if not is_mask(image, Path(folder), mask)], contrasts)


def assigned(images: Sequence[Path], contrasts: Sequence[str]) -> Files:
    """The image of each contrast: by its very name, else by a usual synonym (T1w for T1, T1Gd for T1ce)."""
    wanted = {contrast: one_word(contrast) for contrast in contrasts}
    words = {image: contrast_in(io.stem_of(image), set(wanted.values()))[0] or "" for image in images}
    found: Files = {}
    for contrast, word in wanted.items():
        others = set(wanted.values()) - {word}
        fitting = [image for image in images if words[image] == word]
        fitting = fitting or [i for i in images if words[i] not in others and same_contrast(words[i], word)]
        if len(fitting) > 1:
            names = " and ".join(f"'{image.name}'" for image in fitting[:2])
            what = f"'{fitting[0].parent}' holds two files of {contrast}: {names}"
            remedy = "leave one of them out, or name the one that is no image with mask"
            raise UserError(what, where="data.source.path", remedy=remedy)
        found[contrast] = fitting[0] if fitting else None
    return found
