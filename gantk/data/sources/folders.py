"""The data sources over folders of files: two domains, pictures of both side by side, or one domain with classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Literal

import numpy as np

from gantk.data.preparation import Record
from gantk.data.sources.file_names import Found, below, discover, images_below, numbered, patient_of
from gantk.data.sources.masks import is_mask, masks_of, separate_masks
from gantk.data.sources.pairing import pairs_of
from gantk.data.sources.reader import Item, is_volume
from gantk.data.sources.source import Channels, FileSource, VolumeSource
from gantk.errors import UserError, did_you_mean
from gantk.formats import files as io
from gantk.formats.contrasts import usual_contrast
from gantk.formats.files import outline


class Folders(VolumeSource):
    """Images of two domains in folders: trainA/trainB, folders named after the domains, or any two folders or globs.

    Pairs come from a CSV in the folder or from equal names, and are used for evaluation (and by paired methods).
    Volumes (NIfTI) give their axial planes where the networks are 2-D.
    """

    kind, rank, found_for = "folders", 1, (2,)

    def __init__(
        self,
        domains: tuple[str, ...],
        dims: int,
        size: tuple[int, ...],
        *,
        path: str = "",  # folder below which the images of both domains lie
        a: str = "",  # folder or glob of the first domain, within `path` if that is given; "" = found by names
        b: str = "",  # the same for the second domain
        pairs: str = "",  # CSV with a column of paths for each domain; "" = one in `path`, else equal names; "none"
        patient: str = "",  # regex whose group is the patient, searched in relative path, then stem; "" = folders
        mask: str = "",  # word or glob that names lesion masks, such as seg or mask*: they go with their images
        planes: tuple[float, float] = (0.25, 0.75),  # which slices of a volume 2-D networks see, as shares of its stack
        channels: Channels = None,  # turn all images to gray (1) or colour (3); None = as they are
    ):
        if len(domains) != 2:
            what = f"'folders' holds two domains, and data.domains names {len(domains)}"
            raise UserError(what, where="data.source", remedy="for images of one domain use the source 'images'")
        if not path and not (a and b) or bool(a) != bool(b):
            remedy = 'for example source = { name = "folders", path = "data" }, or --data PATH'
            what = "'folders' does not know where its images are"
            raise UserError(what, where="data.source", allowed="path, or both a and b", remedy=remedy)
        self.set_up(domains, dims, path or ".", planes, channels=channels, patient=patient, mask=mask, asked=(a, b))
        self.pairs = pairs

    @classmethod
    def accepts(cls, path: Path) -> dict | None:
        """`{"path": ...}` where two folders, or files named T1 and T2 or CT and MR, lie below `path`."""
        with suppress(UserError):
            for domains in (("T1", "T2"), ("CT", "MR")):
                found = discover(path, domains)
                if {image.letter for image in found} == {"a", "b"} and not _of_patients(found):
                    return {"path": str(path)}
        return None

    def records(self) -> list[Record]:
        """One record for every picture or plane; UserError for folders that are missing, empty or hold one image."""
        names = tuple(self.domains.values())
        if self.asked["a"]:
            found, listed = self._asked_for()
        else:
            listed = io.list_images(self.root, recursive=True)
            found = discover(self.root, names, separate_masks(listed, self.root, self.mask)[0])
        _, masks = separate_masks(listed, self.root, self.mask)
        masks = masks_of(found, masks, self.root, self.mask, names)
        return self.records_of(items_of(self, found, pairs_of(self.root, found, self.pairs), masks=masks))

    def _asked_for(self) -> tuple[list[Found], list[Path]]:
        """The images of the folders or globs that the options name, and all files among which their masks may be."""
        found: list[Found] = []
        listed = io.list_images(self.root, recursive=True) if self.root.parts else []
        for letter in "ab":
            folder, images = _listed(self.root / self.asked[letter], f"data.source.{letter}")
            listed += [] if self.root.parts else io.list_images(folder, recursive=True)
            images = [image for image in images if not is_mask(image, self.root, self.mask)]
            found += below(folder, images, letter, self.domains[letter])
        splits = [{image.split for image in found if image.letter == letter} - {None} for letter in "ab"]
        if splits[0] != splits[1]:  # they count only where both domains have them
            found = [replace(image, split=None) for image in found]
        return found, sorted(set(listed))


class Aligned(FileSource):
    """Pictures that show both domains side by side, A|B: registered pairs in one file."""

    kind, found_for = "aligned", (2,)

    def __init__(
        self,
        domains: tuple[str, ...],
        dims: int,
        size: tuple[int, ...],
        *,
        path: str = "",  # folder of such pictures, or of train/ and test/ folders with them
        order: Literal["AB", "BA"] = "AB",  # which domain is on the left: the first (AB) or the second (BA)
        patient: str = "",  # regex whose group is the patient, searched in relative path, then stem; "" = folders
        channels: Channels = None,  # turn all images to gray (1) or colour (3); None = as they are
    ):
        if len(domains) != 2 or dims != 2:
            what = f"'aligned' holds 2-D pictures of two domains, not dims = {dims} and {len(domains)} domains"
            raise UserError(what, where="data.source")
        self.set_up(("",), dims, path, channels=channels, patient=patient)
        self.order = order

    @classmethod
    def accepts(cls, path: Path) -> dict | None:
        """`{"path": ...}` where all folders are split folders and the first pictures are twice as wide as high."""
        found = below(path, images_below(path), "image")
        if not found or any(image.place or io.is_volume(image.path) for image in found):
            return None
        with suppress(UserError):
            sides = [outline(image.path).pixels.shape[1:] for image in found[:3]]
            return {"path": str(path)} if all(width == 2 * height for height, width in sides) else None
        return None

    def records(self) -> list[Record]:
        """Two records for every picture: its halves, a pair."""
        found = below(self.root, io.list_images(self.root, recursive=True), "image")
        wholes = self.records_of(items_of(self, found))
        read = {letter: partial(self._half, side=self.order.index(letter.upper())) for letter in "ab"}
        return [replace(one, domain=x, pair=one.key, read=partial(read[x], one)) for x in "ab" for one in wholes]

    def _half(self, whole: Record, side: int) -> np.ndarray:
        pixels = whole.read()
        width = pixels.shape[-1]
        if width % 2:
            raise UserError(f"'{whole.path}' is {width} pixels wide", allowed="an even width: two images side by side")
        return np.ascontiguousarray(np.split(pixels, 2, axis=-1)[side])


class Images(VolumeSource):
    """Images of one domain in a folder and its sub-folders, for methods that make images from noise.

    The first folder below `path` is an image's class where two or more of these hold no digits: yes/ and no/.
    """

    kind, rank = "images", 3

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
        self.set_up(("",), dims, path, planes, channels=channels, patient=patient, mask=mask)
        self.only = only

    @classmethod
    def accepts(cls, path: Path) -> dict | None:
        """`{"path": ...}` where any image lies below `path`."""
        return {"path": str(path)} if images_below(path) else None

    def records(self) -> list[Record]:
        """One record for every picture or plane, with its class where folders name classes."""
        images, masks = separate_masks(io.list_images(self.root, recursive=True), self.root, self.mask)
        found = below(self.root, images, "image")
        masks = masks_of(found, masks, self.root, self.mask, ())
        classes = classes_of_folders(found)
        # Below its class's folder an image may lie in its patient's.
        found = [replace(image, place=image.place[1:]) if image.path in classes else image for image in found]
        records = self.records_of(items_of(self, found, labels=classes, masks=masks))
        kept = [record for record in records if self.only in ("", record.label)]
        if not kept:
            known = sorted({record.label for record in records if record.label is not None})
            allowed = known or "folders of the classes' names, such as yes and no"
            what, remedy = f"no image is of the class '{self.only}'", did_you_mean(self.only, known)
            raise UserError(what, where="data.source.only", allowed=allowed, remedy=remedy)
        return kept


def items_of(
    source: FileSource,
    found: Sequence[Found],
    pairs: Mapping[Path, str] = MappingProxyType({}),
    labels: Mapping[Path, str] = MappingProxyType({}),
    masks: Mapping[Path, Path] = MappingProxyType({}),
) -> list[Item]:
    """Files as items. A folder is a patient where most files lie in numbered ones: `patient07`, `BRATS_HG0006`."""
    by_folder = sum(bool(numbered(image.place)) for image in found) * 2 > len(found)
    items = []
    for image in found:
        path = image.path
        key = (path.relative_to(source.root) if path.is_relative_to(source.root) else path).as_posix()
        subject = "/".join(image.place) if by_folder else ""
        subject = patient_of(key, source.patient) if source.patient else subject
        subject = subject or (image.name if is_volume(path) else "")  # a volume is a scan of somebody
        known = {"label": labels.get(path), "mask": masks.get(path), "pair": pairs.get(path)}
        items.append(Item(image.letter, path, key, subject, split=image.split, **known))
    return items


def classes_of_folders(found: Sequence[Found]) -> dict[Path, str]:
    """The class of each image: its first folder, where two or more of these hold no digits (numbers are patients)."""
    names = {image.place[0] for image in found if image.place and not numbered(image.place[:1])}
    return {f.path: f.place[0] for f in found if f.place and f.place[0] in names} if len(names) > 1 else {}


def classes_of(records: Sequence[Record], domains: Sequence[str]) -> tuple[str, ...]:
    """The classes of the records of these domains, sorted; UserError where some records have none."""
    needed = [record for record in records if record.domain in domains]
    without = [record.key for record in needed if record.label is None]
    if without:
        what = f"{len(without)} of {len(needed)} images have no label: the first is '{without[0]}'"
        remedy = "put every image into a folder named after its class, or set data.labels = false"
        raise UserError(what, where="data.labels", remedy=remedy)
    return tuple(sorted({record.label for record in needed if record.label is not None}))


def _of_patients(found: Sequence[Found]) -> bool:
    """Whether two folders that say nothing hold volumes of the same contrasts: two patients, not two domains."""
    if any(not io.is_volume(image.path) for image in found):
        return False
    said = [{usual_contrast(io.stem_of(image.path)) for image in found if image.letter == letter} for letter in "ab"]
    return len(said[0] & said[1] - {None}) > 1


def _listed(folder: Path, option: str) -> tuple[Path, list[Path]]:
    """The folder that a folder or glob starts from, and its images."""
    globs = [i for i, part in enumerate(folder.parts) if any(sign in part for sign in "*?[")]
    if not globs:
        return folder, io.list_images(folder, recursive=True)
    start, pattern = Path(*folder.parts[: globs[0]]), str(Path(*folder.parts[globs[0] :]))
    images = [path for path in start.glob(pattern) if io.is_image(path) and path.is_file()]
    if not images:
        raise UserError(f"no images match '{folder}'", where=option, allowed=io.readable())
    return start, sorted(images, key=io.natural)
