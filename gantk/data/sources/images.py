"""The data source over images of one domain in folders, which may be classes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from gantk.catalog import domains as names
from gantk.catalog.channels import paths_with_contrasts
from gantk.catalog.patients import parts_with_digits
from gantk.data.preparation import Record
from gantk.data.sources.folders import set_keys_and_patients
from gantk.data.sources.masks import find_masks, separate_masks
from gantk.data.sources.reader import Item
from gantk.data.sources.source import Channels, VolumeSource
from gantk.errors import UserError, did_you_mean
from gantk.formats import files as io


@dataclass(kw_only=True)
class Images(VolumeSource):
    """Images of one domain in a folder and its sub-folders, for methods that generate images from
    noise.

    The folders directly below `path` are classes if the names of two or more contain no digits,
    such as yes/ and no/.
    """

    # regex whose group is the patient (in path or file name); "" = folders; "names" = file names
    patient: str = ""
    # word or glob of the file names of lesion masks, such as seg or mask*; "" = no masks
    mask: str = ""
    channels: Channels = None  # convert all images to gray (1) or colour (3); none = unchanged
    # use only images whose names contain this contrast or word; "" = the domain's name, or all
    a: str = ""
    only: str = ""  # use only images of this class (its folder's name); "" = all

    rank = 3
    guesses = True

    def __post_init__(self):
        if len(self.domains) != 1:
            if self.path and len(self.domains) == 2:
                # raises, and says what names there are
                names.discover(Path(self.path), self.domains)
            what = f"the source 'images' needs one domain, but data.domains has {len(self.domains)}"
            remedy = "use the source 'folders' or 'aligned' for two domains"
            raise UserError(what, where="data.source", remedy=remedy)

        super().__post_init__()
        self.names = {"image": ""}

    @classmethod
    def accepts(cls, path: Path) -> dict | None:
        """`{"path": ...}` where any image is below `path`."""
        return {"path": str(path)} if names.images_below(path) else None

    def records(self) -> list[Record]:
        """One record for every picture or plane, with its class where folders name classes."""
        images, masks = self._images()
        items = of_one_domain(self.root, images)
        find_masks(items, masks, self.root, self.mask, ())
        classes = {
            item.place[0] for item in items if item.place and not parts_with_digits(item.place[:1])
        }
        if len(classes) > 1:
            for item in items:  # folders below the class's may be patients'
                if item.place and item.place[0] in classes:
                    item.label = item.place[0]
                    item.place = item.place[1:]

        records = self.records_of(set_keys_and_patients(items, self))
        kept = [record for record in records if self.only in ("", record.label)]
        if not kept:
            known = sorted({record.label for record in records if record.label})
            allowed = known or "the name of a folder that is a class, such as yes"
            what = f"there is no image of the class '{self.only}'"
            remedy = did_you_mean(self.only, known)
            raise UserError(what, where="data.source.only", allowed=allowed, remedy=remedy)

        return kept

    def _path_from_root(self, image: Path) -> Path:
        """The path from the root folder's name on, which may contain the contrast too."""
        return Path(self.root.resolve().name) / image.relative_to(self.root)

    def _images(self) -> tuple[list[Path], list[Path]]:
        """The images whose names contain the domain, or all if no name does; and the masks."""
        images, masks = separate_masks(
            io.list_images(self.root, recursive=True), self.root, self.mask, self.words
        )
        word = self.a or self.domains[0]
        own = []
        named = paths_with_contrasts(images)
        for image in images:
            parts = (*self._path_from_root(image).parts[:-1], io.stem_of(named[image]))
            if any(names.domain_match(part, word) > 1 for part in parts):
                own.append(image)

        if self.a and not own:
            what = f"no file or folder name in '{self.root}' contains '{self.a}'"
            raise self.nothing_of("image", what, "a word of file or folder names")

        if not own:
            names.expect_no_other_contrast(
                {"image": list(map(self._path_from_root, named.values()))},
                {"image": self.domains[0]},
            )

        return own or images, masks


def of_one_domain(root: Path, images: Sequence[Path]) -> list[Item]:
    """Images below a folder as those of a recipe's only domain."""
    return names.items_in(root, dict.fromkeys(images, ("image", None)), {"image": ""})
