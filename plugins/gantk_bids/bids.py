"""The data source over BIDS datasets: sub-*/[ses-*/]anat/sub-*_T1w.nii.gz and the like (Gorgolewski
et al., 2016).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

from gantk import Catalog, Row, VolumeSource
from gantk.catalog.contrasts import CONTRASTS
from gantk.catalog.tables import LEFT_OUT, read_rows, split_in
from gantk.errors import UserError, did_you_mean
from gantk.formats import files as io
from gantk.formats.image import Scan
from gantk.plugin.spec import Onto
from gantk_bids.names import SUFFIXES, Named, parse_name, suffix_of_contrast

SUBJECT = re.compile("sub-")
ANATOMY = re.compile(r"sub-[^/]*/(ses-[^/]*/)?anat/sub-[^/]*\.nii[^/]*")


@dataclass(kw_only=True)
class Bids(VolumeSource):
    """A BIDS dataset: T1 is `_T1w`, T2 `_T2w`, FLAIR `_FLAIR`, PD `_PDw`, T1CE `_T1w` with a `ce-`
    entity, CT `_ct`.

    Each session is a study of its subject. Images of a session are registered pairs if they have
    the same grid, or if `onto` is set. A session can have several images of a contrast (run-, acq-,
    rec-): gantk uses the one with the fewest entities and the lowest run. With `runs = "all"` every
    image is used, and images with the same entities are pairs. A column `split` of participants.tsv
    assigns subjects to training, validation and test.
    """

    # suffix of the first domain with required entities, such as acq-fast_T1w; "" = by domain name
    a: str = ""
    b: str = ""  # same for the second domain
    # which image to use if a session has several of a contrast
    runs: Literal["first", "all"] = "first"
    # resample a session's other image onto the grid of this one, by their headers
    onto: Onto = "none"
    # word or glob of lesion masks, here or in derivatives/: lesion, or *_mask.nii.gz
    mask: str = ""
    label: str = ""  # column of participants.tsv with the class of a patient; "" = none

    read_by = "BIDS"

    @classmethod
    def accepts(cls, path: Path) -> dict | None:
        """Returns {"path": ...} if sub-*/ folders hold anat/ images, or dataset_description.json
        lies beside them.
        """
        files = io.files_below(path, True, bool) if path.is_dir() else []
        places = [file.relative_to(path).parts for file in files]
        folders = {parts[0] for parts in places if len(parts) > 1}
        while len(folders) == 1 and not any(map(SUBJECT.match, folders)):
            path = path / folders.pop()  # an archive's own folder
            places = [parts[1:] for parts in places if path.name == parts[0]]
            folders = {parts[0] for parts in places if len(parts) > 1}

        described = ("dataset_description.json",) in places and any(map(SUBJECT.match, folders))
        scans = (parts for parts in places if ANATOMY.fullmatch("/".join(parts)))
        return {"path": str(path)} if described or any(scans) else None

    @cached_property
    def catalog(self) -> Catalog:
        """A row for every scan of the domains; UserError where a domain has none."""
        images = io.list_images(self.root, recursive=True)
        masks = self.masks_among(images)
        named_masks = [mask for mask in map(parse_name, masks) if mask]
        # Only <root>/sub-*: derivatives/ and sourcedata/ hold further folders of subjects.
        scans = [
            scan
            for scan in map(parse_name, set(images) - set(masks))
            if scan and self._is_in_place(scan)
        ]
        people = self._participants()
        rows = []
        for letter, name in self.names.items():
            for scan in self._scans_of_domain(letter, scans):
                row = Row(Scan(scan.path), mask=self._mask_of(scan, named_masks))
                row.contrast = name
                row.subject = scan.subject
                row.session = scan.study.partition("/")[2]
                row.pair = scan.study
                if self.runs == "all" and scan.variant:
                    row.pair = f"{scan.study}/{scan.variant}"
                for column, value in people.get(scan.subject, {}).items():
                    setattr(row, column, value)
                rows.append(row)
        return Catalog(row for row in rows if row.split != LEFT_OUT)

    def _is_in_place(self, scan: Named) -> bool:
        """Whether a file lies in a subject's folder, or one below it or a session's: not in
        `anat/old/`.
        """
        folder = self.root / scan.subject
        if not scan.path.is_relative_to(folder):
            return False
        *folders, _ = scan.path.relative_to(folder).parts
        return len([name for name in folders if not name.startswith("ses-")]) <= 1

    def _scans_of_domain(self, letter: str, scans: Sequence[Named]) -> list[Named]:
        """The scans of a domain in natural order; with `runs` "first" one per session."""
        name = self.names[letter]
        asked = self.asked_words[letter]
        text = SUFFIXES.get(asked.lower(), asked) or suffix_of_contrast(name)
        if not text:
            spellings = {scan.suffix.lower(): scan.suffix for scan in reversed(scans)}
            text = spellings.get(name.lower(), name)

        chosen = [scan for scan in scans if scan.matches(text)]
        if not chosen:
            suffixes = sorted({scan.suffix for scan in scans})
            allowed = suffixes or "BIDS names such as sub-01/anat/sub-01_T1w.nii.gz"
            what = f"'{self.root}' has no '{text}' images for the domain {name}"
            contrasts = {CONTRASTS.get(suffix.lower()) for suffix in suffixes}
            raise self.nothing_of(letter, what, allowed, contrasts)

        chosen.sort(key=lambda scan: io.natural(scan.path))
        if self.runs == "all":
            return chosen

        first: dict[str, Named] = {}
        for scan in sorted(chosen, key=lambda scan: len(scan.entities)):
            first.setdefault(scan.study, scan)

        return [scan for scan in chosen if first[scan.study] is scan]

    def _mask_of(self, scan: Named, masks: Sequence[Named]) -> Path | None:
        """The mask of the scan's session, else of its subject; of several masks the one on the
        scan's grid.
        """
        paths = [mask.path for mask in masks if mask.study == scan.study]
        if not paths:  # a mask without a session has its subject as its study
            paths = [mask.path for mask in masks if mask.study == scan.subject]
        if len(paths) > 1:
            on_its_grid = [path for path in paths if io.difference(path, scan.path) is None]
            paths = on_its_grid or paths

        return self.mask_of(scan.path, paths)

    def _participants(self) -> dict[str, dict[str, str]]:
        """Subject -> its `split` and `label` in participants.tsv."""
        path = self.root / "participants.tsv"
        label = self.label.lower()
        columns: list[str] = []
        rows: list[tuple[int, dict[str, str]]] = []
        try:
            if label or path.is_file():
                columns, rows = read_rows(path)
        except UserError as error:
            if label:
                raise
            self.notes = [*self.notes, f"participants.tsv is not used: {error.what}"]
        if label and label not in columns:
            what = f"'{path}' has no column '{self.label}'"
            remedy = did_you_mean(label, columns)
            raise UserError(what, where="data.source.label", allowed=columns, remedy=remedy)

        people = {}
        for line, row in rows:
            split = split_in(row.get("split", ""), f"{path}, line {line}")
            people[subject_of(row)] = {"split": split, "label": row.get(label, "")}

        return people


def subject_of(row: dict[str, str]) -> str:
    """The subject's folder for a row of participants.tsv; its id may lack the `sub-`."""
    return f"sub-{row.get('participant_id', '').removeprefix('sub-')}"
