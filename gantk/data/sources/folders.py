"""Data sources over files of two domains: folders, and pictures that show both side by side."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np

from gantk.data.items import Record
from gantk.data.resample import SamplingGrid
from gantk.data.sources.contrast_names import MEANING, contrast_in
from gantk.data.sources.file_names import Found, below, discover
from gantk.data.sources.masks import is_mask, masks_of, set_masks_apart
from gantk.data.sources.pairing import pairs_of
from gantk.data.sources.reading import Channels, needed_path, patient_pattern, records_of
from gantk.data.sources.volumes import Reader
from gantk.errors import UserError
from gantk.formats import files as io


class Folders:
    """Images of two domains in folders: trainA/trainB, folders named after the domains, or any two folders or globs.

    Pairs come from a CSV in the folder or from equal names, and are used for evaluation (and by paired methods).
    Volumes (NIfTI) give their axial planes where the networks are 2-D.
    """

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
            raise UserError(
                f"'folders' holds two domains, and data.domains names {len(domains)}",
                where="data.source",
                remedy="for images of one domain use the source 'images'",
            )
        if not path and not (a and b) or bool(a) != bool(b):
            raise UserError(
                "'folders' does not know where its images are",
                where="data.source",
                allowed="path, or both a and b",
                remedy='for example source = { name = "folders", path = "data" }, or --data PATH',
            )
        self.domains, self.patient, self.planes, self.pairs = domains, patient_pattern(patient), planes, pairs
        self.root, self.a, self.b, self.mask = Path(path), a, b, mask
        self.reader = Reader(dims, channels)

    @classmethod
    def accepts(cls, path: Path) -> dict | None:
        """`{"path": ...}` where two folders, or files named T1 and T2 or CT and MR, lie below `path`."""
        try:
            images = io.list_images(path, recursive=True)
            for domains in (("T1", "T2"), ("CT", "MR")) if images else ():
                found = discover(path, domains)
                if {image.letter for image in found} == {"a", "b"} and not _of_patients(found):
                    return {"path": str(path)}
        except UserError:
            return None
        return None

    def sees(self, view: SamplingGrid) -> None:
        """Take the slices of volumes along this plane, at this spacing: asked for before `records`."""
        self.reader.view = view

    def records(self) -> list[Record]:
        """One record for every picture or plane; UserError for folders that are missing, empty or hold one image."""
        found, listed = self._found()
        _, masks = set_masks_apart(listed, self.root, self.mask)
        pairs = pairs_of(self.root, found, self.pairs)
        expected = dict(zip("ab", self.domains, strict=True))
        return records_of(
            found,
            self.root,
            pairs,
            self.patient,
            self.reader,
            self.planes,
            expected,
            masks=masks_of(found, masks, self.root, self.mask, self.domains),
        )

    def _found(self) -> tuple[list[Found], list[Path]]:
        """The images of both domains, and all files among which their masks may be."""
        if not self.a:
            listed = io.list_images(self.root, recursive=True)
            return discover(self.root, self.domains, set_masks_apart(listed, self.root, self.mask)[0]), listed
        found: list[Found] = []
        listed = io.list_images(self.root, recursive=True) if self.root.parts else []
        for letter, where, domain in zip("ab", (self.a, self.b), self.domains, strict=True):
            folder, images = _listed(self.root, where, f"data.source.{letter}")
            listed += [] if self.root.parts else io.list_images(folder, recursive=True)
            images = [image for image in images if not is_mask(image, self.root, self.mask)]
            found += below(folder, images, letter, domain)
        return _splits_together(found), sorted(set(listed))


class Aligned:
    """Pictures that show both domains side by side, A|B: registered pairs in one file."""

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
        self.root, self.order, self.patient = needed_path(path, "aligned"), order, patient_pattern(patient)
        self.reader = Reader(dims, channels)

    @classmethod
    def accepts(cls, path: Path) -> dict | None:
        """`{"path": ...}` where all folders are split folders and the first pictures are twice as wide as high."""
        import PIL.Image

        try:
            images = below(path, io.list_images(path, recursive=True), "image")
            if not images or any(image.place for image in images):
                return None
            for image in images[:3]:
                with PIL.Image.open(image.path) as picture:
                    if picture.width != 2 * picture.height:
                        return None
        except (UserError, OSError):
            return None
        return {"path": str(path)}

    def records(self) -> list[Record]:
        """Two records for every picture: its halves, a pair."""
        found = below(self.root, io.list_images(self.root, recursive=True), "image")
        wholes = records_of(found, self.root, {}, self.patient, self.reader, (0, 1), {"image": ""})
        sides = dict(zip(self.order.lower(), (0, 1), strict=True))
        return [
            replace(whole, domain=letter, pair=whole.key, read=partial(self._half, whole, sides[letter]))
            for letter in "ab"
            for whole in wholes
        ]

    def _half(self, whole: Record, side: int) -> np.ndarray:
        pixels = whole.read()
        width = pixels.shape[-1]
        if width % 2:
            raise UserError(f"'{whole.path}' is {width} pixels wide", allowed="an even width: two images side by side")
        return np.ascontiguousarray(pixels[..., : width // 2] if side == 0 else pixels[..., width // 2 :])


def channels(records: Sequence[Record]) -> dict[str, int]:
    """Channels of each domain, by its first record."""
    first = {record.domain: record for record in reversed(records)}
    return {domain: first[domain].read().shape[0] for domain in sorted(first)}


def source_for(path: Path, domains: int = 2, own: str | None = None) -> dict:
    """The registered source that fits `path`, as a recipe's table: `{"name": "folders", "path": ...}`.

    `own` is the recipe's, which wins where it fits; then the more special source; a folder of one domain is for recipes
    of one domain. UserError where none fits.
    """
    from gantk.plugin.loader import registry

    general = ("folders", "nifti", "images") if domains == 2 else ("nifti", "images", "contrasts", "folders", "aligned")
    rank = {name: place for place, name in enumerate(general, start=1)} | {"phantom": 99} | {own: -1}
    entries = sorted(registry().of_kind("source"), key=lambda entry: (rank.get(entry.name, 0), entry.name))
    for entry in entries:
        accepts = getattr(entry.load(), "accepts", None)
        options = accepts(Path(path)) if accepts else None
        if options is not None:
            return {"name": entry.name, **options}
    raise UserError(nothing_fits(Path(path)), where="--data", remedy="see `gantk list source` for what there is")


def _of_patients(found: Sequence[Found]) -> bool:
    """Whether two folders that say nothing hold volumes of the same contrasts: two patients, not two domains."""
    if any(not io.is_volume(image.path) for image in found):
        return False
    meant: dict[str, set] = {"a": set(), "b": set()}
    for image in found:
        meant[image.letter].add(MEANING.get(contrast_in(io.stem_of(image.path), set())[0] or ""))
    return len(meant["a"] & meant["b"] - {None}) > 1


def nothing_fits(path: Path) -> str:
    """Why no data source fits a path, in words."""
    if not path.exists():
        return f"'{path}' does not exist"
    if path.is_file():
        return f"'{path}' is a file; data come in folders, or in a CSV that lists them"
    images = io.list_images(path, recursive=True)
    if images:
        folders = Counter(str(image.parent.relative_to(path)) for image in images)
        held = ", ".join(f"{count} in '{name}'" for name, count in folders.most_common(6))
        return f"no data source knows what the images in '{path}' are: {held}"
    kinds = Counter(io.suffix_of(file) or "no suffix" for file in path.rglob("*") if file.is_file())
    held = ", ".join(f"{count} x {kind}" for kind, count in kinds.most_common(6)) or "nothing"
    return f"'{path}' holds no images that can be read ({io.readable()}); it holds {held}"


def _listed(root: Path, where: str, option: str) -> tuple[Path, list[Path]]:
    """The folder that a folder or glob starts from, and its images."""
    folder = root / where
    if not any(sign in where for sign in "*?["):
        return folder, io.list_images(folder, recursive=True)
    parts = folder.parts
    fixed = next(i for i, part in enumerate(parts) if any(sign in part for sign in "*?["))
    start = Path(*parts[:fixed])
    images = [path for path in start.glob(str(Path(*parts[fixed:]))) if io.is_image(path) and path.is_file()]
    if not images:
        raise UserError(f"no images match '{folder}'", where=option, allowed=io.readable())
    return start, sorted(images, key=io.natural)


def _splits_together(found: list[Found]) -> list[Found]:
    """Splits count only where both domains have them."""
    said = [{image.split for image in found if image.letter == letter} - {None} for letter in "ab"]
    return found if said[0] == said[1] else [replace(image, split=None) for image in found]
