"""The data source over files of one domain: images for methods that make some from noise."""

from __future__ import annotations

from pathlib import Path

from gantk.data.items import Record
from gantk.data.resample import SamplingGrid
from gantk.data.sources.file_names import below
from gantk.data.sources.labels import beyond_class, classes_of_folders, of_class
from gantk.data.sources.masks import masks_of, set_masks_apart
from gantk.data.sources.reading import Channels, needed_path, patient_pattern, records_of
from gantk.data.sources.volumes import Reader
from gantk.errors import UserError
from gantk.formats import files as io


class Images:
    """Images of one domain in a folder and its sub-folders, for methods that make images from noise.

    The first folder below `path` is an image's class where two or more of these hold no digits: yes/ and no/.
    """

    def __init__(
        self,
        domains: tuple[str, ...],
        dims: int,
        size: tuple[int, ...],
        *,
        path: str = "",  # folder below which the images lie
        patient: str = "",  # regex whose group is the patient, searched in relative path, then stem; "" = folders
        mask: str = "",  # word or glob that names lesion masks, such as seg or mask*: they go with their images
        planes: tuple[float, float] = (0.25, 0.75),  # which slices of a volume 2-D networks see, as shares of its stack
        channels: Channels = None,  # turn all images to gray (1) or colour (3); None = as they are
        only: str = "",  # keep the images of this class, by its folder's name; "" = all
    ):
        if len(domains) != 1:
            what = f"'images' holds one domain, and data.domains names {len(domains)}"
            raise UserError(what, where="data.source", remedy="for two domains use 'folders' or 'aligned'")
        self.root, self.patient, self.planes = needed_path(path, "images"), patient_pattern(patient), planes
        self.mask, self.only = mask, only
        self.reader = Reader(dims, channels)

    @classmethod
    def accepts(cls, path: Path) -> dict | None:
        """`{"path": ...}` where any image lies below `path`."""
        try:
            return {"path": str(path)} if io.list_images(path, recursive=True) else None
        except UserError:
            return None

    def sees(self, view: SamplingGrid) -> None:
        """Take the slices of volumes along this plane, at this spacing: asked for before `records`."""
        self.reader.view = view

    def records(self) -> list[Record]:
        """One record for every picture or plane, with its class where folders name classes."""
        images, masks = set_masks_apart(io.list_images(self.root, recursive=True), self.root, self.mask)
        found = below(self.root, images, "image")
        classes = classes_of_folders(found)
        records = records_of(
            [beyond_class(image) if image in classes else image for image in found],
            self.root,
            {},
            self.patient,
            self.reader,
            self.planes,
            {"image": ""},
            labels={image.path: name for image, name in classes.items()},
            masks=masks_of(found, masks, self.root, self.mask, ()),
        )
        return of_class(records, self.only) if self.only else records
