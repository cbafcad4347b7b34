"""The data source over BIDS datasets: sub-*/[ses-*/]anat/sub-*_T1w.nii.gz and the like (Gorgolewski
et al., 2016).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from gantk import Catalog, Row, VolumeSource
from gantk.catalog.tables import LEFT_OUT, read_rows, split_in
from gantk.errors import UserError, did_you_mean
from gantk.formats import files as io
from gantk.plugin.spec import Onto
from gantk_bids.names import parse_name

SUBJECT = re.compile("sub-")
ANATOMY = re.compile(r"sub-[^/]*/(ses-[^/]*/)?anat/sub-[^/]*\.nii[^/]*")


@dataclass(kw_only=True)
class Bids(VolumeSource):
    """A BIDS dataset: T1 is `_T1w`, T2 `_T2w`, FLAIR `_FLAIR`, PD `_PDw`, T1CE `_T1w` with a `ce-`
    entity, CT `_ct`.

    Images of a session are registered pairs if they have the same grid, or if `onto` is set. Of
    several images of a contrast (run-, acq-, rec-) gantk uses the one with the fewest entities and
    the lowest run. A column `split` of participants.tsv assigns subjects to training, validation
    and test.
    """

    # resample a session's other image onto the grid of this one, by their headers
    onto: Onto = "none"
    # word or glob of lesion masks, here or in derivatives/: lesion, or *_mask.nii.gz
    mask: str = ""
    label: str = ""  # column of participants.tsv with the class of a patient; "" = none

    @classmethod
    def accepts(cls, path: Path) -> dict | None:
        """Returns {"path": ...} if sub-*/ folders hold anat/ images, or dataset_description.json
        lies beside them.
        """
        files = io.files_below(path, True, bool) if path.is_dir() else []
        places = [file.relative_to(path).parts for file in files]
        folders = {parts[0] for parts in places if len(parts) > 1}
        has_subjects = any(map(SUBJECT.match, folders))
        if len(folders) == 1 and not has_subjects:
            return cls.accepts(path / folders.pop())  # an archive's own folder

        described = ("dataset_description.json",) in places and has_subjects
        scans = (parts for parts in places if ANATOMY.fullmatch("/".join(parts)))
        return {"path": str(path)} if described or any(scans) else None

    @cached_property
    def catalog(self) -> Catalog:
        """A row for every image; those that are no scans of the domains are left out."""
        masks = self.masks_among(io.list_images(self.root, recursive=True))
        catalog = self.catalog_of_entities(masks)
        people = self._participants()
        for row in catalog.of_kind("image"):
            row.mask = self._mask_of(row, masks)
            for column, value in people.get(row.subject, {}).items():
                setattr(row, column, value)
            if row.split == LEFT_OUT:
                row.kind = "left out"
                row.why = "by participants.tsv"
        return catalog

    def _mask_of(self, row: Row, masks: Sequence[Path]) -> Path | None:
        """The mask of a scan's session, else of its subject; of several masks the one on the
        scan's grid.
        """
        study = "/".join(filter(None, (row.subject, row.session)))
        study_of = {mask: named.study for mask in masks if (named := parse_name(mask))}
        paths = [mask for mask, own in study_of.items() if own == study]
        if not paths:  # a mask without a session has its subject as its study
            paths = [mask for mask, own in study_of.items() if own == row.subject]
        paths = [path for path in paths if not io.difference(path, row.path)] or paths
        return self.mask_of(row.path, paths)

    def _participants(self) -> dict[str, dict[str, str]]:
        """Subject -> its `split` and `label` in participants.tsv; an id may lack the `sub-`."""
        path = self.root / "participants.tsv"
        label = self.label.lower()
        if not label and not path.is_file():
            return {}
        columns, rows = read_rows(path)
        if label and label not in columns:
            raise UserError(
                f"'{path}' has no column '{self.label}'",
                where="data.source.label",
                allowed=columns,
                remedy=did_you_mean(label, columns),
            )

        people = {}
        for line, row in rows:
            split = split_in(row.get("split", ""), f"{path}, line {line}")
            subject = f"sub-{row.get('participant_id', '').removeprefix('sub-')}"
            people[subject] = {"split": split, "label": row.get(label, "")}
        return people
