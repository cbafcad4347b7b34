"""The data source over patients who each have one file per contrast: T1, T1ce, T2, FLAIR side by
side in a folder.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from gantk.catalog import domains as names
from gantk.catalog.contrasts import usual_contrast
from gantk.catalog.patients import parts_with_digits, patients_of
from gantk.data.preparation import Record, contrast_names
from gantk.data.sources.masks import expect_one_grid, expect_one_mask, separate_masks
from gantk.data.sources.reader import Item
from gantk.data.sources.source import VolumeSource
from gantk.errors import NothingFound, UserError
from gantk.formats import files as io

MIN_CONTRASTS = 3  # known ones in a folder that `accepts` takes for a patient's


@dataclass(kw_only=True)
class Contrasts(VolumeSource):
    """One folder for each patient, with one file for each contrast on one grid; for domains such
    as T1+FLAIR.

    All images are registered pairs. A domain such as "T1+T1ce+FLAIR" becomes one image with a
    channel for each contrast, which is found by words in file names. If a patient lacks a contrast,
    its channel is NaN (see `Record.missing`). If a patient lacks all contrasts of a domain, the
    domain has no record of this patient. If most folders are numbered, the others (templates,
    atlases) are ignored.
    """

    # contrasts of the first domain as in the file names, such as T1w+FLAIR; "" = the domain's name
    a: str = ""
    b: str = ""  # the same for the second domain
    # word or glob of the file names of lesion masks, such as seg or mask*; "" = no masks
    mask: str = ""
    # regex whose group is the patient (in the folder's path); "" = the part with a number
    patient: str = ""

    found_for = (2,)
    channels = 1

    @classmethod
    def accepts(cls, path: Path) -> dict | None:
        """Returns {"path": ...} if two folders, or one with volumes, each hold three or more known
        contrasts.
        """
        images = names.images_below(path)
        by_contrast = defaultdict(list)
        for image in images:
            contrast = usual_contrast(io.stem_of(image))
            if contrast:
                by_contrast[contrast].append(image)

        folders: dict[Path, Counter] = defaultdict(Counter)
        for contrast, own in by_contrast.items():
            for image in names.without_derived(own, contrast):
                folders[image.parent][contrast] += 1

        patients = set()
        for folder, counts in folders.items():
            if len(counts) >= MIN_CONTRASTS and max(counts.values()) == 1:
                patients.add(folder)

        volumes = {image.parent for image in images if io.is_volume(image)}
        return {"path": str(path)} if len(patients) > 1 or patients & volumes else None

    def records(self) -> list[Record]:
        """One record per domain and patient, or per plane of the patient; UserError for files on
        different grids.
        """
        images, masks = separate_masks(
            io.list_images(self.root, recursive=True), self.root, self.mask, self.words
        )
        wanted = list(
            dict.fromkeys(name for said in self.words.values() for name in contrast_names(said))
        )
        files = names.contrast_files(images, wanted)
        lacking = [name for name in wanted if not any(each[name] for each in files.values())]
        if lacking:
            raise self._lacks(lacking, images)

        places = {}
        for folder in files:
            places[folder] = folder.relative_to(self.root).parts or (folder.resolve().name,)

        subjects = patients_of(places.values(), whole=False)
        folders = [
            folder for folder in files if parts_with_digits(folder.relative_to(self.root).parts)
        ]
        if 2 * len(folders) <= len(files):
            folders = list(files)

        items = []
        for folder in folders:
            own_masks = [mask for mask in masks if mask.parent == folder]
            items += self._of_patient(folder, files[folder], own_masks, subjects[places[folder]])

        names.only_if_several(items)
        order = {item.key: n for n, item in enumerate(items)}
        return sorted(
            self.records_of(items),
            key=lambda record: (order[record.scan_key or record.key], record.position or 0.0),
        )

    def _lacks(self, lacking: Sequence[str], images: Sequence[Path]) -> NothingFound:
        """The error for contrasts that no folder holds."""
        what = f"no folder in '{self.root}' contains a file named {' or '.join(lacking)}"
        if images:
            shown = ", ".join(f"'{image.relative_to(self.root)}'" for image in images[:4])
            what += f". Files found: {shown}"

        allowed = "words of the file names, joined by + within a domain, such as T1+FLAIR"
        contrasts = (names.contrast_said(image.relative_to(self.root)) for image in images)
        remedy = names.rename_or_map(set(filter(None, contrasts)), self.domains)
        return NothingFound(what, where="data.domains", allowed=allowed, remedy=remedy)

    def _of_patient(
        self, folder: Path, files: names.Files, masks: Sequence[Path], subject: str
    ) -> list[Item]:
        """One item per domain for a patient's folder; UserError where its files are on different
        grids.
        """
        parts = folder.relative_to(self.root).parts
        key = "/".join(parts) or folder.resolve().name
        first, *others = filter(None, files.values())
        for file in others:
            if differs := io.difference(first, file):
                what = (
                    f"'{first}' and '{file}' are of one patient, but on different voxel grids:"
                    f" {differs}"
                )
                remedy = "first register and resample the files of each patient onto one grid"
                raise UserError(what, where="data.source.path", remedy=remedy)

        expect_one_mask(masks, folder)
        for mask in masks:
            expect_one_grid(mask, first)

        items = []
        for letter, said in self.words.items():
            contrasts = {name: files[name] for name in contrast_names(said)}
            present = list(filter(None, contrasts.values()))
            if not present:
                continue

            item = Item(letter, present[0], key, subject, contrasts=contrasts)
            if self.pattern:
                item.subject = names.patient_of(key, self.pattern)
            if masks:
                item.mask = masks[0]

            item.pair = key if len(self.domains) > 1 else None
            item.split = names.split_of(parts)
            items.append(item)

        return items
