"""The data source over folders of pictures and volumes: a catalog's rows become records."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Literal

from gantk.catalog.catalog import Catalog, Row, compose_text, unread_note, unread_rows
from gantk.catalog.contrasts import ContrastWords
from gantk.catalog.domains import GLOB
from gantk.catalog.layouts import OTHER_FORM, Reading, read_by
from gantk.catalog.masks import set_masks
from gantk.catalog.question import LayoutQuestion, rows_in_words
from gantk.catalog.scan import Asked, Patients, catalog_of, read_folder
from gantk.data.sources.pairing import pair_rows
from gantk.data.sources.source import VolumeSource
from gantk.errors import NothingFound, UserError, count_noun, join_first
from gantk.formats import files as io
from gantk.formats.image import Scan
from gantk.plugin.spec import Onto


@dataclass(kw_only=True)
class Files(VolumeSource):
    """Pictures and volumes (NIfTI, NRRD, MetaImage) below a folder, of one or two domains.

    A layout says the domain, patient, visit and split of each file: one of those that `gantk list
    layout` shows if it explains all files, else the one that you give. Images of two domains are
    registered pairs if they belong to one patient and visit and have one grid, or equal names. A
    domain such as "T1+FLAIR" becomes one image with a channel for each contrast. If a patient lacks
    one, its channel is NaN (see `Record.missing`).
    """

    # line with fields ({patient}/{visit}_{contrast}.nii.gz), one for each contrast, or a layout's name; "" = gantk finds it
    layout: str | dict[str, str] = ""
    # glob or folder of the first domain's files (patient07/T1_*), or a word for it; "" = by layout
    a: str = ""
    b: str = ""  # the same for the second domain
    pairs: Literal["", "none"] = ""  # "none" = no pairs; "" = by patient and visit, or by name
    # resample the other image of each patient onto the grid of this domain, by the headers
    onto: Onto = "none"
    # regex whose group is the patient (in path or file name), in place of the layout's
    patient: str = ""
    # word or glob of the file names of lesion masks, such as seg or mask*; "" = no masks
    mask: str = ""

    def __post_init__(self):
        self.path = self.path or ("." if self.a else "")
        super().__post_init__()

    @classmethod
    def accepts(cls, path: Path) -> dict | None:
        """`{"path": ...}` where any image is below `path`."""
        if path.is_dir() and io.list_images(path, recursive=True):
            return {"path": str(path)}
        return None

    @cached_property
    def contrast_words(self) -> ContrastWords:
        """The words for the contrasts, those of the options a and b among them."""
        own = {name: list(words) for name, words in self.own_words.items()}
        for contrast, text in self.texts.items():
            if not self._is_place(text):
                own[contrast] = [*own.get(contrast, ()), text]
        return ContrastWords(self.wanted, own)

    def _is_place(self, text: str) -> bool:
        """Whether a text is a glob or a folder, and not a word."""
        return bool(GLOB.search(text) or "/" in text) or (self.root / text).is_dir()

    @cached_property
    def catalog(self) -> Catalog:
        """All images below the folder, read once."""
        paths = io.files_below(self.root, True, bool)
        images = [path for path in paths if io.is_image(path)]
        masks = {*self.masks_among(images)}
        scans = [path for path in images if path not in masks]
        places = {name: text for name, text in self.texts.items() if self._is_place(text)}
        patients: Patients = "if clear" if self.pattern else "all"
        own = self.contrast_words.own
        asked = Asked(self.wanted, "", own, patients=patients, dims=self.dims)
        if places:
            catalog = self._read_places(scans, places, asked)
        elif isinstance(self.layout, dict):
            catalog = self._read_lines(scans, self.layout)
        else:
            catalog = read_folder(self.root, scans, replace(asked, layout=self.layout), paths)
        if self.pattern:
            rows = [row for row in catalog.of_kind("image") if row.contrast in self.wanted]
            self.set_patients(rows)
            for row in rows:
                row.pair = row.anatomy
            others = [row for row in catalog if row.kind != "image"]
            how = f"{catalog.layout}, patients by '{self.patient}'"
            catalog.in_words = rows_in_words(how, [*rows, *others])
        if self.mask:
            rows = catalog.of_kind("image")
            set_masks(rows, [*masks], self.root, self.mask, self.contrast_words)
            alone = sorted(masks - {row.mask for row in rows})
            if alone:
                names = join_first([repr(self.key_of(mask)) for mask in alone])
                note = f"{count_noun(alone, 'mask')} left out, without an image: {names}"
                self.notes = [*self.notes, note]
        unread = unread_rows(paths)
        catalog.rows += unread
        self.notes = [*self.notes, *filter(None, [unread_note(unread)])]
        return catalog

    def _read_lines(self, images: Sequence[Path], lines: Mapping[str, str]) -> Catalog:
        """The catalog by a line for each contrast; UserError for a file that two of them fit."""
        file_of = {compose_text(self.key_of(image)): image for image in images}
        whole = Reading(" | ".join(lines.values()), left_out=dict.fromkeys(file_of, OTHER_FORM))
        for contrast in self.wanted:
            if contrast not in lines:
                raise UserError(
                    f"there is no line for {contrast}", where="data.source.layout", allowed=[*lines]
                )
            found = read_by(lines[contrast], [*file_of], [contrast], self.contrast_words)
            for row in found.rows:
                row.contrast = contrast
                if whole.left_out.pop(row.scan.name, None) is None:
                    raise self._in_both(row.scan.name)
            whole.rows += found.rows
        return catalog_of(whole, file_of)

    def _read_places(
        self, images: Sequence[Path], places: Mapping[str, str], asked: Asked
    ) -> Catalog:
        """The catalog of the files that the globs and folders of a and b choose, for a domain that has
        none the files whose names say it; their patients as a layout says them, if one fits.
        """
        contrast_of: dict[Path, str] = {}
        for contrast in self.wanted:
            for image in self._files_at(contrast, places.get(contrast, ""), images):
                if contrast_of.setdefault(image, contrast) != contrast:
                    raise self._in_both(str(image))
        chosen = [image for image in images if image in contrast_of]
        try:
            catalog = read_folder(self.root, chosen, asked)
        except LayoutQuestion as question:
            # that patients tell the contrasts apart is right, as the user chose them
            if question.doubted:
                file_of = {compose_text(self.key_of(image)): image for image in chosen}
                catalog = catalog_of(question.doubted[0], file_of)
            else:
                catalog = read_folder(self.root, chosen, replace(asked, patients="none"))
        for row in catalog:  # what looks like a mask, too, since the user chose it
            row.contrast = contrast_of[row.path]
            row.kind = "image"
        others = [
            Row(Scan(image), kind="left out", why="of another name")
            for image in images
            if image not in contrast_of
        ]
        words = ", ".join(f"{name} {text}" for name, text in places.items())
        in_words = rows_in_words(words, [*catalog, *others])
        return Catalog([*catalog, *others], layout=words, in_words=in_words)

    def _in_both(self, name: str) -> UserError:
        return UserError(
            f"'{name}' belongs to both domains, {' and '.join(self.domains)}",
            where="data.source",
            remedy="make these lines more specific",
        )

    def _files_at(self, contrast: str, text: str, images: Sequence[Path]) -> list[Path]:
        """The images in a folder, that a glob matches, or for "" those whose names say the contrast;
        UserError where there is none.
        """
        folder = self.root / text
        paths = set()
        if not text:
            asked = Asked(words=self.contrast_words.own, patients="none")
            rows = read_folder(self.root, images, asked)
            paths = {row.path for row in rows.of_kind("image") if row.contrast == contrast}
        elif folder.is_dir():
            paths = {image for image in images if image.is_relative_to(folder)}
        else:
            pattern = os.path.relpath(folder, self.root) if "/" in text else f"**/{text}"
            with suppress(ValueError):  # it is no glob
                paths = {*self.root.glob(pattern)}
        matched = [image for image in images if image in paths]
        if not matched:
            raise NothingFound(
                f"no images match '{folder}'",
                where=f"data.source.{self.option_of(contrast)}",
                allowed=io.readable(),
            )
        return matched

    def nameless(self) -> str:
        layout = self.catalog.layout
        if len(self.names) == 1:
            says = "{contrast}" in layout or not layout.count("{")
        else:
            says = "{ab}" not in layout
        if says:
            return ""
        called = " and ".join("AB"[: len(self.names)])
        return (
            f"no file or folder name in '{self.root}' contains {' or '.join(self.domains)}, so the"
            f" domains are called {called}"
        )

    def find_rows(self) -> list[Row]:
        """A row for each image of the domains; UserError where a domain has none."""
        rows = sorted(super().find_rows(), key=lambda row: row.letter)
        for row in rows:
            if row.mask:
                self.mask_of(row.path, [row.mask])
        return rows

    def set_pairs(self, rows: Sequence[Row]) -> None:
        """Set the pairs: of volumes by patient and visit, of pictures by name."""
        if self.pairs == "none" or len(self.names) < 2:
            for row in rows:
                row.pair = ""
            return
        are_volumes = any(row.is_volume for row in rows)
        notes = pair_rows(rows, self.onto, by_name=not are_volumes)
        self.notes = [*self.notes, *notes]
        by_itself = not (self.patient or self.layout)
        named = "{person}" in self.catalog.layout or not any(row.subject for row in rows)
        # domains A and B say nothing of patients
        self.pairs_by = "names" if by_itself and named and not are_volumes else ""
