"""The data sources over folders of files: two domains, or one domain with classes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from gantk.data.preparation import Record
from gantk.data.sources import file_names as names
from gantk.data.sources.masks import find_masks, is_mask, separate_masks
from gantk.data.sources.pairing import find_pairs
from gantk.data.sources.reader import Item, is_volume
from gantk.data.sources.source import Channels, FileSource, VolumeSource
from gantk.errors import UserError, did_you_mean
from gantk.formats import files as io
from gantk.formats.contrasts import usual_contrast
from gantk.plugin.loader import load as plugins


@dataclass(kw_only=True)
class Folders(VolumeSource):
    """Images of two domains in folders: trainA/trainB, folders named after the domains, or any two folders or globs.

    Pairs come from a CSV in the folder or from equal names, and are used for evaluation (and by paired methods).
    Volumes (NIfTI) give their axial planes where the networks are 2-D.
    """

    a: str = ""  # folder or glob of the first domain, in `path` if given, or a word in file names; "" = its name
    b: str = ""  # the same for the second domain
    pairs: str = ""  # CSV with a column of paths for each domain; "" = one in `path`, else equal names; "none"
    patient: str = ""  # regex whose group is the patient, in path or stem; "" = by folders; "names" = by file names
    mask: str = ""  # word or glob that names lesion masks, such as seg or mask*: they go with their images
    channels: Channels = None  # turn all images to gray (1) or colour (3); None = as they are

    rank, found_for, guesses = 1, (2,), True

    def __post_init__(self):
        if len(self.domains) != 2:
            what = f"'folders' holds two domains, and data.domains names {len(self.domains)}"
            raise UserError(what, where="data.source", remedy="for images of one domain use the source 'images'")
        if bool(self.a) != bool(self.b):
            raise UserError("'folders' knows one domain alone", where="data.source", allowed="path, or both a and b")
        self.path = self.path or ("." if self.a else "")
        super().__post_init__()

    @classmethod
    def accepts(cls, path: Path) -> dict | None:
        """`{"path": ...}` where two folders, or files named T1 and T2 or CT and MR, lie below `path`."""
        images = names.images_below(path)
        said = (names.contrast_said(image.relative_to(path)) for image in images)
        contrasts = Counter(filter(None, said)).most_common(2)
        others = [] if all(map(io.is_volume, images)) else [tuple(word for word, _ in contrasts), ("A", "B")]
        for domains in (("T1", "T2"), ("CT", "MR"), *others):
            with suppress(UserError):
                if len(domains) == 2 and _are_domains(names.discover(path, domains, images)):
                    return {"path": str(path)}
        return None

    def records(self) -> list[Record]:
        """One record for every picture or plane; UserError for folders that are missing, empty or hold one image."""
        items, masks = self._items()
        find_masks(items, masks, self.root, self.mask, self.domains)
        find_pairs(items, self.root, self.pairs)
        return self.records_of(named(items, self))

    def _items(self) -> tuple[list[Item], list[Path]]:
        """The images of both domains, and the masks: by the folders or globs that the options name, else by names."""
        asked = [self.asked[letter] for letter in "ab"]
        if self.a and all((self.root / each).is_dir() or names.GLOB.search(each) for each in asked):
            return self._items_of_options()
        images, masks = separate_masks(io.list_images(self.root, recursive=True), self.root, self.mask)
        return names.discover(self.root, tuple(self.words.values()), images), masks

    def _items_of_options(self) -> tuple[list[Item], list[Path]]:
        """The images of the folders or globs that the options name, and the masks among all files there."""
        items, listed = [], io.list_images(self.root, recursive=True) if self.root.parts else []
        for letter, domain in self.names.items():
            folder, images = names.images_of(self.root / self.asked[letter], f"data.source.{letter}")
            listed += [] if self.root.parts else io.list_images(folder, recursive=True)
            images = [image for image in images if not is_mask(image, self.root, self.mask)]
            items += names.items_in(folder, dict.fromkeys(images, (letter, None)), {letter: domain})
        splits = [{item.split for item in items if item.letter == letter} - {None} for letter in "ab"]
        if splits[0] != splits[1]:  # splits count only if both domains have the same
            items = [replace(item, split=None) for item in items]
        return items, separate_masks(sorted(set(listed)), self.root, self.mask)[1]


@dataclass(kw_only=True)
class Images(VolumeSource):
    """Images of one domain in a folder and its sub-folders, for methods that make images from noise.

    The first folder below `path` is an image's class where two or more of these hold no digits: yes/ and no/.
    """

    patient: str = ""  # regex whose group is the patient, in path or stem; "" = by folders; "names" = by file names
    mask: str = ""  # word or glob that names lesion masks, such as seg or mask*: they go with their images
    channels: Channels = None  # turn all images to gray (1) or colour (3); None = as they are
    a: str = ""  # keep the images whose names contain this contrast or word; "" = all, or those of the domain's name
    only: str = ""  # keep the images of this class, by its folder's name; "" = all

    rank, guesses = 3, True

    def __post_init__(self):
        if len(self.domains) != 1:
            what = f"'images' holds one domain, and data.domains names {len(self.domains)}"
            raise UserError(what, where="data.source", remedy="for two domains use 'folders' or 'aligned'")
        super().__post_init__()
        self.names = {"image": ""}

    @classmethod
    def accepts(cls, path: Path) -> dict | None:
        """`{"path": ...}` where any image lies below `path`."""
        return {"path": str(path)} if names.images_below(path) else None

    def records(self) -> list[Record]:
        """One record for every picture or plane, with its class where folders name classes."""
        images, masks = self._images()
        items = of_one_domain(self.root, images)
        find_masks(items, masks, self.root, self.mask, ())
        classes = {item.place[0] for item in items if item.place and not names.numbered(item.place[:1])}
        for item in items if len(classes) > 1 else ():
            if item.place and item.place[0] in classes:  # folders below the class's may be patients'
                item.label, item.place = item.place[0], item.place[1:]
        records = self.records_of(named(items, self))
        kept = [record for record in records if self.only in ("", record.label)]
        if not kept:
            known = sorted({record.label for record in records} - {None})
            allowed = known or "folders of the classes' names, such as yes and no"
            what, remedy = f"no image is of the class '{self.only}'", did_you_mean(self.only, known)
            raise UserError(what, where="data.source.only", allowed=allowed, remedy=remedy)
        return kept

    def _shown(self, image: Path) -> Path:
        """The path from the root folder's name on, which may contain the contrast too."""
        return Path(self.root.resolve().name) / image.relative_to(self.root)

    def _images(self) -> tuple[list[Path], list[Path]]:
        """The images whose names contain the domain, or all images if no name does; and the masks."""
        images, masks = separate_masks(io.list_images(self.root, recursive=True), self.root, self.mask)
        word = self.a or self.domains[0]
        parts = {image: (*self._shown(image).parts[:-1], io.stem_of(image)) for image in images}
        own = [image for image in images if any(names.domain_match(part, word) > 1 for part in parts[image])]
        if self.a and not own:
            what = f"no name in '{self.root}' says '{self.a}'"
            raise self.nothing_of("image", what, "a word of file or folder names")
        if not own:
            names.expect_no_other_contrast({"image": list(map(self._shown, images))}, {"image": self.domains[0]})
        return own or images, masks


def named(items: list[Item], source: FileSource) -> list[Item]:
    """Set key and patient of items: folders are patients if most files lie in numbered ones, such as `patient07`."""
    by_folder = 2 * sum(bool(names.numbered(item.place)) for item in items) > len(items)
    mode = "take" if source.patient == "names" else source.asks
    subjects = None if by_folder or source.pattern else plugins().hook.gantk_subjects(items=items, how=mode)
    for place, item in enumerate(items):
        item.key = source.key_of(item.source)
        item.subject = names.patient_folders(item.place) if by_folder else subjects[place] if subjects else ""
        if source.pattern:
            item.subject = names.patient_of(item.key, source.pattern)
        elif not item.subject and is_volume(item.source):  # each volume is a patient
            item.subject = names.without_visit(item.name)
    return items


def classes_of(records: Sequence[Record], domains: Sequence[str]) -> tuple[str, ...]:
    """The classes of the records of these domains, sorted; UserError where some records have none."""
    needed = [record for record in records if record.domain in domains]
    without = [record.key for record in needed if record.label is None]
    if without:
        what = f"{len(without)} of {len(needed)} images have no label: the first is '{without[0]}'"
        remedy = "put every image into a folder named after its class, or set data.labels = false"
        raise UserError(what, where="data.labels", remedy=remedy)
    return tuple(sorted({record.label for record in needed}))


def of_one_domain(root: Path, images: Sequence[Path]) -> list[Item]:
    """Images below a folder as those of a recipe's only domain."""
    return names.items_in(root, dict.fromkeys(images, ("image", None)), {"image": ""})


def nameless(path: Path, domains: Sequence[str]) -> str | None:
    """A note that no name below a path contains a recipe's domains, so that they are called A and B.

    None where names contain a domain or another contrast, and where the domains are no usual contrasts.
    """
    images = names.images_below(path)
    words = {part for image in images for part in (*image.relative_to(path).parts[:-1], io.stem_of(image))}
    words |= {path.resolve().name} if len(domains) == 1 else set()
    if not any(map(usual_contrast, domains)) or any(names.domain_match(x, name) > 1 for x in words for name in domains):
        return None
    groups = {"a": images}
    with suppress(UserError):
        items = names.discover(path, ("A", "B"), images) if len(domains) == 2 else []
        groups = {x: [item.source for item in items if item.letter == x] for x in "ab"} if items else groups
    groups = {letter: [image.relative_to(path) for image in own] for letter, own in groups.items()}
    said = [{names.contrast_said(image) for image in own} - {None} for own in groups.values()]
    if any(own - set.intersection(*said) for own in said) or (len(said) == 1 and said[0]):
        return None
    apart = names.folders_apart(groups) if len(groups) > 1 else dict.fromkeys("ab"[: len(domains)])
    called = [f"{letter.upper()} ({', '.join(own)})" if own else letter.upper() for letter, own in apart.items()]
    return f"no name in '{path}' says {' or '.join(domains)}: called {' and '.join(called)}"


def _are_domains(items: Sequence[Item]) -> bool:
    """Whether two groups are two domains; two groups of volumes that share contrasts are two patients."""
    groups = [[item.source for item in items if item.letter == letter] for letter in "ab"]
    if not all(groups) or not all(map(io.is_volume, sum(groups, []))):
        return all(groups)
    contrasts = [{usual_contrast(io.stem_of(path)) for path in paths} for paths in groups]
    return len(contrasts[0] & contrasts[1] - {None}) < 2
