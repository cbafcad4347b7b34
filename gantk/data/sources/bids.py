"""The data source over BIDS datasets: sub-*/[ses-*/]anat/sub-*_T1w.nii.gz and the like (Gorgolewski et al., 2016)."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from gantk.data.items import Record, domain_letters
from gantk.data.resample import SamplingGrid
from gantk.data.sources.contrast_names import MEANING, plain
from gantk.data.sources.csv_rows import read_rows, split_named
from gantk.data.sources.masks import expect_one_grid, is_mask
from gantk.data.sources.reading import expected_records, needed_path
from gantk.data.sources.volumes import Item, Onto, Reader, paired
from gantk.errors import UserError, did_you_mean
from gantk.formats import files as io
from gantk.formats.files import difference

# What the usual contrasts are called in BIDS: a suffix, and an entity that has to be there.
SUFFIXES = {"t1": "T1w", "t1ce": "ce-*_T1w", "t2": "T2w", "pd": "PDw", "flair": "FLAIR", "ct": "ct", "pet": "pet"}


@dataclass(frozen=True)
class Named:
    """A file, and what its name says: `sub-01_ses-2_acq-fast_T1w.nii.gz`."""

    path: Path
    entities: dict[str, str]  # {"sub": "01", "ses": "2", "acq": "fast"}
    suffix: str  # "T1w"

    @property
    def subject(self) -> str:
        """`sub-01`."""
        return f"sub-{self.entities['sub']}"

    @property
    def study(self) -> str:
        """`sub-01/ses-2`, or the subject where there are no sessions."""
        return "/".join([self.subject] + ([f"ses-{self.entities['ses']}"] if "ses" in self.entities else []))

    @property
    def variant(self) -> str:
        """What tells several images of one session apart, apart from the contrast agent: `acq-fast_run-1`."""
        rest = {key: value for key, value in self.entities.items() if key not in ("sub", "ses", "ce")}
        return "_".join(f"{key}-{value}" for key, value in rest.items())


class Bids:
    """A BIDS dataset: T1 is `_T1w`, T2 `_T2w`, FLAIR `_FLAIR`, PD `_PDw`, T1CE `_T1w` with a `ce-` entity, CT `_ct`.

    Every session is a study of its own, of one patient. Its images are registered pairs where they lie on one grid, or
    with `onto`. Of several images of a contrast in one session (run-, acq-, rec-) the first is taken, the one with the
    fewest entities and the lowest run, unless `runs` is "all": then those are pairs that share their entities.
    A column `split` of participants.tsv says who is in training, validation and test.
    """

    def __init__(
        self,
        domains: tuple[str, ...],
        dims: int,
        size: tuple[int, ...],
        *,
        path: str = "",  # folder that holds sub-*; for derivatives, the pipeline's own folder
        a: str = "",  # suffix of the first domain, with entities it must have: acq-fast_T1w; "" = by its name
        b: str = "",  # the same for the second domain
        runs: Literal["first", "all"] = "first",  # which of several images of a contrast in a session
        onto: Onto = "none",  # resample a session's other image onto the grid of this one, by their headers
        mask: str = "",  # word or glob that names lesion masks, here or in derivatives/: lesion, or *_mask.nii.gz
        label: str = "",  # column of participants.tsv that is a patient's class; "" = none
        planes: tuple[float, float] = (0.25, 0.75),  # which slices of a volume 2-D networks see, as shares of its stack
    ):
        self.root, self.asked = needed_path(path, "bids"), {"a": a, "b": b, "image": a}
        self.domains = dict(zip(domain_letters(domains), domains, strict=True))
        self.runs, self.onto, self.mask, self.label, self.planes = runs, onto, mask, label, planes
        self.reader = Reader(dims)

    @classmethod
    def accepts(cls, path: Path) -> dict | None:
        """`{"path": ...}` where sub-*/ folders hold anat/, or dataset_description.json lies beside some."""
        try:
            subjects = [folder for folder in path.glob("sub-*") if folder.is_dir()]
        except OSError:
            return None
        described = bool(subjects) and (path / "dataset_description.json").is_file()
        held = any(next(folder.glob(f"{deep}anat/sub-*.nii*"), None) for folder in subjects for deep in ("", "ses-*/"))
        return {"path": str(path)} if described or held else None

    def sees(self, view: SamplingGrid) -> None:
        """Take the slices of volumes along this plane, at this spacing: asked for before `records`."""
        self.reader.view = view

    def records(self) -> list[Record]:
        """One record for every scan, or for every plane of it; UserError where a domain has none."""
        listed = [named for path in io.list_images(self.root, recursive=True) if (named := parsed(path))]
        masks = [named for named in listed if is_mask(named.path, self.root, self.mask)]
        apart = {named.path for named in masks}
        # derivatives/ and sourcedata/ hold subjects' folders of their own
        scans = [n for n in listed if n.path not in apart and n.path.is_relative_to(self.root / n.subject)]
        if self.mask and not masks:
            raise UserError(f"no file in '{self.root}' is named '{self.mask}'", where="data.source.mask",
                            allowed="a word of the masks' names, such as lesion, or a glob")  # fmt: skip
        people = self._participants()
        items = []
        for letter in self.domains:
            for named in self._of_domain(letter, scans):
                person = people.get(named.subject, {})
                items.append(
                    Item(
                        letter=letter,
                        source=named.path,
                        key=named.path.relative_to(self.root).as_posix(),
                        subject=named.subject,
                        study=named.study + (f"/{named.variant}" if self.runs == "all" and named.variant else ""),
                        split=person.get("split"),
                        label=person.get("label"),
                        mask=self._mask_of(named, masks),
                    )
                )
        return expected_records(paired(items, self.onto), self.reader, self.planes, self.domains, self.root)

    def _of_domain(self, letter: str, scans: Sequence[Named]) -> list[Named]:
        """The scans of a domain in natural order; with `runs` "first" one for each session."""
        suffix, needed = self._wanted(letter, scans)
        chosen = [named for named in scans if named.suffix == suffix and _has(named, needed)]
        if not chosen:
            there = sorted({named.suffix for named in scans})
            raise UserError(
                f"'{self.root}' holds no '{'_'.join([*needed, suffix])}' for {self.domains[letter]}",
                where=f"data.source.{'a' if letter == 'image' else letter}",
                allowed=there or f"BIDS names such as sub-01/anat/sub-01_T1w{' or '.join(io.volume_suffixes())}",
                remedy=did_you_mean(suffix, there),
            )
        studies: dict[str, list[Named]] = defaultdict(list)
        for named in sorted(chosen, key=lambda named: (len(named.entities), io.natural(named.path))):
            studies[named.study].append(named)
        kept = [named for several in studies.values() for named in (several if self.runs == "all" else several[:1])]
        return sorted(kept, key=lambda named: io.natural(named.path))

    def _wanted(self, letter: str, scans: Sequence[Named]) -> tuple[str, tuple[str, ...]]:
        """The suffix that a domain means, and the entities that it needs."""
        name = self.domains[letter]
        text = self.asked[letter] or SUFFIXES.get(MEANING.get(plain(name), ""))
        text = text or next((named.suffix for named in scans if named.suffix.lower() == name.lower()), name)
        *needed, suffix = text.split("_")
        return suffix, tuple(needed)

    def _mask_of(self, scan: Named, masks: Sequence[Named]) -> Path | None:
        """The mask of the same session, else of the same subject; of several the one on the scan's grid."""
        fitting = [mask for mask in masks if mask.study == scan.study]
        fitting = fitting or [mask for mask in masks if mask.subject == scan.subject and "ses" not in mask.entities]
        if len(fitting) > 1:
            fitting = [mask for mask in fitting if difference(mask.path, scan.path) is None] or fitting
        if len(fitting) > 1:
            raise UserError(
                f"'{scan.path}' has two masks: '{fitting[0].path}' and '{fitting[1].path}'",
                where="data.source.mask",
                remedy="name the masks more exactly, for example with a glob",
            )
        if fitting and self.onto == "none":
            expect_one_grid(fitting[0].path, scan.path)
        return fitting[0].path if fitting else None

    def _participants(self) -> dict[str, dict[str, str]]:
        """`split` and `label` of every subject of participants.tsv that has them."""
        path = self.root / "participants.tsv"
        if not path.is_file():
            if self.label:
                raise UserError(f"'{path}' does not exist", where="data.source.label")
            return {}
        columns, rows = read_rows(path)
        label = self.label.lower()
        if label and label not in columns:
            raise UserError(
                f"'{path}' has no column '{self.label}'",
                where="data.source.label",
                allowed=columns,
                remedy=did_you_mean(label, columns),
            )
        people = {}
        for line, row in rows:
            split = split_named(row.get("split", ""), f"{path}, line {line}")
            said = {"split": split, "label": row.get(label) if label else None}
            given = {key: value for key, value in said.items() if value and value != "n/a"}
            people[f"sub-{row.get('participant_id', '').removeprefix('sub-')}"] = given
        return people


def parsed(path: Path) -> Named | None:
    """A file's entities and suffix; None where its name is not of BIDS."""
    *pairs, suffix = io.stem_of(path).split("_")
    entities = dict(pair.split("-", 1) for pair in pairs if "-" in pair)
    whole = len(entities) == len(pairs) and "sub" in entities and re.fullmatch("[A-Za-z0-9]+", suffix)
    return Named(path, entities, suffix) if whole else None


def _has(named: Named, needed: Sequence[str]) -> bool:
    """Whether a scan has the entities that were asked for: `acq-fast`, or `ce` of any kind; ce- only where asked."""
    asked = dict(entity.split("-", 1) if "-" in entity else (entity, None) for entity in needed)
    there = all(key in named.entities and value in (None, "*", named.entities[key]) for key, value in asked.items())
    return there and ("ce" in asked or "ce" not in named.entities)
