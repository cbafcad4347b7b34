"""The data source over patients who each have one file per contrast: T1, T1ce, T2, FLAIR side by side in a folder."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from gantk.data.preparation import Record, contrast_names
from gantk.data.sources.file_names import (
    SPLIT_WORD,
    images_below,
    numbered,
    of_contrast,
    only_if_several,
    patient_of,
    split_of,
)
from gantk.data.sources.masks import expect_one_grid, expect_one_mask, separate_masks
from gantk.data.sources.reader import Item
from gantk.data.sources.source import VolumeSource
from gantk.errors import UserError
from gantk.formats import files as io
from gantk.formats.contrasts import contrast_in, one_word, usual_contrast

ENOUGH = 3  # contrasts in a folder from which on it is taken for a patient's when nobody said so
Files = dict[str, Path | None]  # the file of each contrast


@dataclass(kw_only=True)
class Contrasts(VolumeSource):
    """Patients' folders that hold one file for each contrast, all on one grid: registered pairs of N and M channels.

    A domain such as "T1+T1ce+FLAIR" becomes one image with a channel for each contrast, matched by the words of the
    files' names. A contrast that a patient lacks is a channel of NaN (`Record.missing` names it); a domain without
    any has no record. Where most folders are numbered, the others (templates, atlases) are left alone.
    """

    mask: str = ""  # word or glob that names lesion masks, such as seg or mask*; "" = there are none
    patient: str = ""  # regex whose group is the patient, searched in the folder's path; "" = its numbered part

    found_for, channels = (2,), 1

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
        wanted = tuple(dict.fromkeys(name for domain in self.domains for name in contrast_names(domain)))
        files = {folder: own for folder, own in _by_folder(images, wanted).items() if any(own.values())}
        if not files:
            shown = ", ".join(f"'{image.relative_to(self.root)}'" for image in images[:4])
            what = f"no folder in '{self.root}' holds a file named {' or '.join(wanted)}"
            allowed = "words of the files' names, joined by + within a domain: T1+FLAIR"
            raise UserError(what + f"; there are {shown}" * bool(shown), where="data.domains", allowed=allowed)
        patients = [folder for folder in files if numbered(folder.relative_to(self.root).parts)]
        items = []
        for folder in patients if 2 * len(patients) > len(files) else files:
            items += self._of_patient(folder, files[folder], [mask for mask in masks if mask.parent == folder])
        only_if_several(items)
        records, places = self.records_of(items), {item.key: place for place, item in enumerate(items)}
        return sorted(records, key=lambda record: (places[record.scan_key or record.key], record.position or 0.0))

    def _of_patient(self, folder: Path, files: Files, masks: Sequence[Path]) -> list[Item]:
        """The images of one patient's folder, whose files lie on one grid."""
        parts = folder.relative_to(self.root).parts
        key = "/".join(parts) or folder.resolve().name
        own = [part for part in parts if not SPLIT_WORD.match(part)] or [key]
        first, *others = filter(None, files.values())
        for file in others:
            if differs := io.difference(first, file):
                what = f"'{first}' and '{file}' are of one patient, and on different grids: {differs}"
                remedy = "register and resample a patient's files onto one grid first"
                raise UserError(what, where="data.source.path", remedy=remedy)
        expect_one_mask(masks, folder)
        for mask in masks:
            expect_one_grid(mask, first)
        known = {
            "subject": patient_of(key, self.pattern) if self.pattern else next(iter(numbered(own)), "/".join(own)),
            "mask": next(iter(masks), None),
            "pair": key if len(self.domains) > 1 else None,
            "split": split_of(parts),
        }
        items = []
        for letter, domain in self.names.items():
            contrasts = {name: files[name] for name in contrast_names(domain)}
            if present := list(filter(None, contrasts.values())):
                items.append(Item(letter, present[0], key, contrasts=contrasts, **known))
        return items


def contrast_files(folder: Path, contrasts: Sequence[str]) -> Files:
    """The file of each contrast in one patient's folder, None where there is none; two for one are a UserError."""
    return _by_folder(io.list_images(folder), contrasts).get(Path(folder), dict.fromkeys(contrasts))


def _by_folder(images: Sequence[Path], contrasts: Sequence[str]) -> dict[Path, Files]:
    """The image of each contrast in each folder: by its very name, else by a usual synonym (T1w for T1)."""
    wanted = {contrast: one_word(contrast) for contrast in contrasts}
    words = set(wanted.values())
    said = {image: contrast_in(io.stem_of(image), words)[0] for image in images}
    folders: dict[Path, Files] = {image.parent: dict.fromkeys(contrasts) for image in images}
    for contrast, word in wanted.items():
        for image in of_contrast(said, word, words - {word}):
            other = folders[image.parent][contrast]
            if other:
                what = f"'{image.parent}' holds two files of {contrast}: '{other.name}' and '{image.name}'"
                remedy = "leave one of them out, or name the one that is no image with mask"
                raise UserError(what, where="data.source.path", remedy=remedy)
            folders[image.parent][contrast] = image
    return folders
