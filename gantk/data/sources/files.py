"""The data source over folders of pictures and volumes: a catalog's rows become records."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from gantk.catalog.catalog import (
    Case,
    Catalog,
    Row,
    expect_one_volume_a_cell,
    layout_in_words,
    unread_note,
    unread_rows,
)
from gantk.catalog.channels import refuse_numbered_channels
from gantk.catalog.contrasts import contrast_names, usual_contrast
from gantk.catalog.domains import rename_or_map
from gantk.catalog.layouts import PATIENT_IN_NAME, UNNAMED, Asked, read_names
from gantk.catalog.tables import FILL_IN_TABLE
from gantk.catalog.versions import refuse_folders_of_visits
from gantk.data.preparation import Record
from gantk.data.sources.pairing import pair_rows, unread_tables
from gantk.data.sources.source import VolumeSource
from gantk.errors import NothingFound, UserError, count_noun, did_you_mean, join_first
from gantk.formats import files as io
from gantk.plugin.spec import Onto

MAX_NAMED = 8  # files or folders in a message


@dataclass(kw_only=True)
class Files(VolumeSource):
    """Pictures and volumes (NIfTI, NRRD, MetaImage) below a folder, of one or two domains.

    The names of files and folders say the domain (its name, or a usual synonym: T1w for T1), the
    patient and the split; `gantk data check PATH --table scans.csv` writes what was understood.
    Images of two domains are registered pairs if they belong to one patient and visit and have one
    grid, or equal names. A domain such as "T1+FLAIR" becomes one image with a channel for each
    contrast. If a patient lacks one, its channel is NaN (see `Record.missing`). In data of one
    domain, folders without numbers below `path` are classes, such as yes/ and no/.
    """

    # word, folder or glob (T1w, patient07/T1_*) of the first domain's files; "" = its name
    a: str = ""
    b: str = ""  # the same for the second domain
    pairs: str = ""  # "none" = no pairs; "" = by patient and visit, or by name
    # resample the other image of each patient onto the grid of this domain, by the headers
    onto: Onto = "none"
    # regex whose group is the patient (in path or file name); "" = folders; "names" = file names
    patient: str = ""
    # word or glob of the file names of lesion masks, such as seg or mask*; "" = no masks
    mask: str = ""
    only: str = ""  # use only images of this class (its folder's name); "" = all

    def __post_init__(self):
        self.path = self.path or ("." if self.a else "")
        super().__post_init__()
        # the contrasts of each domain, one channel each
        self.contrasts = {x: contrast_names(name) for x, name in self.names.items()}
        self.several = any(len(names) > 1 for names in self.contrasts.values())

    @classmethod
    def accepts(cls, path: Path) -> dict | None:
        """`{"path": ...}` where any image is below `path`."""
        if path.is_dir() and io.list_images(path, recursive=True):
            return {"path": str(path)}
        return None

    @property
    def asked(self) -> Asked:
        """The options that concern names."""
        texts: dict[str, str] = {}
        options: dict[str, str] = {}
        for letter, contrasts in self.contrasts.items():
            option = "a" if letter == "image" else letter
            words = contrast_names(self.asked_words[letter]) if self.asked_words[letter] else ()
            if words and len(words) != len(contrasts):
                what = f"'{self.asked_words[letter]}' does not name {len(contrasts)} contrasts"
                raise UserError(what, where=f"data.source.{option}", allowed="words joined by +")
            for place, contrast in enumerate(contrasts):
                texts[contrast] = words[place] if words else ""
                options[contrast] = option
        return Asked(texts, options, self.mask, self.patient)

    @cached_property
    def catalog(self) -> Catalog:
        """All images below the folder, read once."""
        images = io.list_images(self.root, recursive=True)
        catalog = read_names(self.root, self._of_dims(images), self.asked)
        unread = unread_rows(io.files_below(self.root, True, bool))
        catalog.rows += unread
        catalog.notes += filter(None, [unread_note(unread)])
        return catalog

    def _of_dims(self, images: Sequence[Path]) -> list[Path]:
        """The volumes where networks take volumes; the more numerous of volumes and pictures."""
        volumes = [image for image in images if io.is_volume(image)]
        pictures = [image for image in images if not io.is_volume(image)]
        if self.dims == 3 or len(volumes) >= len(pictures):
            kept, others = volumes or pictures, pictures if volumes else []
        else:
            kept, others = pictures, volumes
        if others:
            kind = "pictures" if kept is volumes else "volumes"
            self.notes = [
                f"{count_noun(others, 'file')} left out: {kind} beside the other images, such as"
                f" '{self.key_of(others[0])}'"
            ]
        return kept

    def nameless(self) -> str | None:
        """A note that no name says the domains, so that they are called A and B; None where one
        does.
        """
        groups = self.catalog.groups
        if len(self.names) == 1:
            rows = self.catalog.of_kind("image")
            if any(row.why.get("contrast") != UNNAMED for row in rows):
                return None
        elif not groups:
            return None

        called = []
        for letter, folders in zip("AB", groups.values() or ([],), strict=False):
            called.append(f"{letter} ({', '.join(folders)})" if folders else letter)
        return (
            f"no file or folder name in '{self.root}' contains {' or '.join(self.domains)}, so the"
            f" domains are called {' and '.join(called)}"
        )

    @cached_property
    def left_out(self) -> dict[str, int]:
        """How many images say another contrast than the domains, by contrast."""
        if self.recorded is not None:
            return {}
        wanted = {name for names in self.contrasts.values() for name in names}
        usual = {usual_contrast(name) for name in wanted}
        images = self.catalog.of_kind("image")
        said = (row.contrast for row in images if row.contrast not in wanted)
        return Counter(name for name in said if name and usual_contrast(name) not in usual)

    def records(self) -> list[Record]:
        """A record for each image of the class `only`, or each plane of a volume."""
        records = super().records()
        kept = [record for record in records if self.only in ("", record.label)]
        if not kept:
            known = sorted({record.label for record in records if record.label})
            allowed = known or "the name of a folder that is a class, such as yes"
            what = f"there is no image of the class '{self.only}'"
            remedy = did_you_mean(self.only, known)
            raise UserError(what, where="data.source.only", allowed=allowed, remedy=remedy)
        return kept

    def find_rows(self) -> list[Row]:
        """A row for each image of the domains; UserError where a domain has none."""
        if self.pairs not in ("", "none"):
            raise UserError(
                f"'{self.pairs}' is not a valid value",
                where="data.source.pairs",
                allowed='"none" or ""',
                remedy="to list pairs in a table, use it as the data: --data pairs.csv",
            )
        wanted = [name for names in self.contrasts.values() for name in names]
        images = [row for row in self.catalog.of_kind("image") if row.contrast in wanted]
        found = {row.contrast for row in images}
        lacking = [contrast for contrast in wanted if contrast not in found]
        if lacking:
            raise self._no_images(lacking)
        refuse_numbered_channels(images, list(dict.fromkeys(wanted)))
        self.notes = [*self.notes, *self.catalog.notes, *self._passed_over(images)]
        self.doubts = self.catalog.doubts
        if self.several:
            rows = self._rows_of_cases(images)
        else:
            refuse_folders_of_visits(images, self.names, self.root)
            expect_one_volume_a_cell(images)
            rows = self._rows_of_domains(images)
            self._set_pairs(rows)
        self.layout = layout_in_words(rows, self.catalog)

        self.notes = [*self.notes, *unread_tables(rows, self.root)]
        for row in rows:
            if row.mask:
                self.mask_of(row.path, [row.mask])
        return rows

    def _passed_over(self, rows: Sequence[Row]) -> list[str]:
        """A note of images of a domain, of further patients, that the recipe's words or globs leave
        out.
        """
        used = {(row.subject, row.contrast) for row in rows}
        domains = {row.contrast for row in rows}
        left = []
        for row in self.catalog.of_kind("version"):
            if row.contrast in domains and (row.subject, row.contrast) not in used:
                left.append(repr(self.key_of(row.path)))
        given = [repr(text) for text in self.asked.contrasts.values() if text]
        if not left or not given:
            return []
        return [
            f"{' and '.join(given)} of data.source.a and b leave out other images of these domains,"
            f" as {left[0]}. To use them: --set 'data.source.a=\"\"' --set 'data.source.b=\"\"'"
        ]

    def _no_images(self, lacking: Sequence[str]) -> NothingFound:
        """The error for contrasts without images, with what was found and the settings that help."""
        images = [row for row in self.catalog if row.kind in ("image", "version")]
        asked = self.asked
        text = asked.contrasts[lacking[0]]
        what = f"no file in '{self.root}' is named {' or '.join(map(repr, lacking))}"
        if text:
            what = f"no file in '{self.root}' matches '{text}'"
        elif len(self.domains) == 2 and len(lacking) == len(asked.contrasts):
            which = " and which are ".join(self.domains)
            what = f"it is unclear which images in '{self.root}' are {which}"
        if images:
            names = [repr(self.key_of(row.path)) for row in images]
            what += f". Found: {join_first(names, most=MAX_NAMED)}"
            folders = sorted({self.key_of(row.path.parent) for row in images}, key=io.natural)
            if len(folders) > 1:
                shown = join_first([*map(repr, folders)], most=MAX_NAMED)
                what += f", in the folders {shown}"
        else:
            what += f". It contains no images ({io.readable()})"
        remedy = rename_or_map({row.contrast for row in images if row.contrast}, self.domains)
        remedy = remedy or (
            "set data.domains to words of the file or folder names, or give a word, folder or glob"
            " for each domain: --set data.source.a=WORD --set data.source.b='*_0001*'"
        )
        return NothingFound(
            what,
            where=f"data.source.{asked.options[lacking[0]]}",
            allowed="words of file or folder names, trainA and trainB, two folders, or a glob",
            remedy=f"{remedy}. {FILL_IN_TABLE}",
        )

    def _rows_of_domains(self, images: Sequence[Row]) -> list[Row]:
        """The images, by domain."""
        return [
            self.row_of(letter, row)
            for letter, (contrast,) in self.contrasts.items()
            for row in images
            if row.contrast == contrast
        ]

    def _rows_of_cases(self, images: Sequence[Row]) -> list[Row]:
        """A row for each domain and case, with a channel for each contrast."""
        wanted = [name for names in self.contrasts.values() for name in names]
        cases = Catalog(images).cases(wanted)
        rows = []
        beside = Counter(case.folder for case in cases)
        for case in cases:
            files = {name: self._only(case, name) for name in wanted if name in case.rows}
            self._expect_one_grid([*files.values()])
            key = self._key_of_case(case, alone=beside[case.folder] == 1)
            for letter, contrasts in self.contrasts.items():
                rows += self._rows_of_case(letter, contrasts, key, files)
        return rows

    def _key_of_case(self, case: Case, alone: bool) -> str:
        """The folder of a case, and its name where it is not `alone` there."""
        folder = self.key_of(case.folder) if case.folder != self.root else ""
        key = folder if alone else f"{folder}/{case.name}".strip("/")
        return key or self.root.resolve().name

    def _rows_of_case(
        self, letter: str, contrasts: Sequence[str], key: str, files: Mapping[str, Row]
    ) -> list[Row]:
        """The row of a domain and case; none where all of the domain's contrasts lack."""
        present = [files[name] for name in contrasts if name in files]
        if not present:
            return []
        scans = {name: files[name].scan if name in files else None for name in contrasts}
        pair = key if len(self.domains) > 1 else ""
        return [replace(present[0], letter=letter, key=key, pair=pair, contrasts=scans)]

    def _only(self, case: Case, contrast: str) -> Row:
        """The only image of a contrast of a case; UserError for two."""
        row, *others = case.rows[contrast]
        if others:
            what = (
                f"'{row.path.parent}' contains two files of {contrast}: '{row.path.name}' and"
                f" '{others[0].path.name}'"
            )
            remedy = (
                "remove one of them or, if one is a mask, set data.source.mask to a word of its"
                f" name. {FILL_IN_TABLE}"
            )
            raise UserError(what, where="data.source.path", remedy=remedy)
        return row

    def _expect_one_grid(self, rows: Sequence[Row]) -> None:
        """UserError for contrasts of a case on different grids."""
        first, *others = rows
        for row in others:
            if differs := io.grids_differ(first.outline, row.outline):
                what = (
                    f"'{first.path}' and '{row.path}' are of one patient, but on different voxel grids:"
                    f" {differs}"
                )
                remedy = "first register and resample the files of each patient onto one grid"
                raise UserError(what, where="data.source.path", remedy=remedy)

    def _set_pairs(self, rows: Sequence[Row]) -> None:
        """Set the pairs: of volumes by patient and visit, of pictures by name."""
        if self.pairs == "none" or len(self.names) < 2:
            for row in rows:
                row.pair = ""
            return
        are_volumes = any(row.is_volume for row in rows)
        notes = pair_rows(rows, self.onto, by_name=not are_volumes)
        self.notes = [*self.notes, *notes]
        rules = {row.why["subject"] for row in self.catalog if row.subject}
        by_names_alone = not self.patient and rules == {PATIENT_IN_NAME}
        use_all = not are_volumes or self.domains == ("A", "B")  # which say nothing of patients
        self.patients_guessed = use_all and by_names_alone
