"""The data source over pictures that show both domains side by side."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Literal

import numpy as np

from gantk.catalog.catalog import Catalog, Row
from gantk.catalog.scan import Asked, read_folder
from gantk.catalog.words import SPLIT, whole
from gantk.data.preparation import Record
from gantk.data.sources.source import FileSource
from gantk.errors import UserError, count_noun
from gantk.formats import files as io


@dataclass(kw_only=True)
class Aligned(FileSource):
    """Pictures that show both domains side by side, A|B, in a folder or its train/ and test/: each
    file is a pair.
    """

    order: Literal["AB", "BA"] = "AB"  # the domain on the left: the first (AB) or the second (BA)
    # line that says whose each picture is, such as {patient}_{name}; "" = gantk finds it
    layout: str = ""
    # regex whose group is the patient (in path or file name), in place of a layout's
    patient: str = ""

    def __post_init__(self):
        if len(self.domains) != 2 or self.dims != 2:
            has = f"dims = {self.dims} and {count_noun(self.domains, 'domain')}"
            raise UserError(
                f"the source 'aligned' needs dims = 2 and two domains, but the recipe has {has}",
                where="data.source",
            )
        super().__post_init__()
        self.names = {"image": ""}

    @classmethod
    def accepts(cls, path: Path) -> dict | None:
        """Returns {"path": ...} if all folders are split folders and the first pictures are twice
        as wide as high.
        """
        if not path.is_dir():
            return None
        images = io.list_images(path, recursive=True)
        if not images or any(map(io.is_volume, images)):
            return None
        with suppress(UserError):
            sides = [io.outline(image).pixels.shape[1:] for image in images[:3]]
            are_wide = all(width == 2 * height for height, width in sides)
            places = {image.parent.relative_to(path).as_posix() for image in images}
            if are_wide and all(place == "." or whole(SPLIT, place) for place in places):
                return {"path": str(path)}
        return None

    @cached_property
    def catalog(self) -> Catalog:
        """A row for every picture."""
        images = io.list_images(self.root, recursive=True)
        asked = Asked(("image",), "numbers" if self.pattern else self.layout)
        catalog = read_folder(self.root, images, asked)
        self.set_patients(catalog)
        return catalog

    def find_rows(self) -> list[Row]:
        """A row for every picture."""
        return [self.row_of("image", row) for row in self.catalog.of_kind("image")]

    def records(self) -> list[Record]:
        """Two paired records for every picture, one for each half."""
        wholes = super().records()
        halves = []
        for letter in "ab":
            side = self.order.index(letter.upper())
            for one in wholes:
                read = partial(self._half, one, side)
                halves.append(replace(one, domain=letter, pair=one.key, read=read, file=None))
        return halves

    def nameless(self) -> str:
        return "pictures show two images side by side, so the domains are called A and B"

    def _half(self, whole: Record, side: int) -> np.ndarray:
        pixels = whole.read()
        width = pixels.shape[-1]
        if width % 2:
            raise UserError(
                f"'{whole.path}' is {width} pixels wide, so it has no two equal halves",
                allowed="two images of the same width side by side",
            )
        return np.ascontiguousarray(np.split(pixels, 2, axis=-1)[side])
