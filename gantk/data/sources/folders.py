"""The data source over folders of two domains, and the patients and classes of their files."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from gantk.catalog import domains as names
from gantk.catalog.channels import paths_with_contrasts
from gantk.catalog.contrasts import usual_contrast
from gantk.catalog.patients import parts_with_digits, patients_in_names, patients_of_folders
from gantk.data.preparation import Record
from gantk.data.sources.masks import find_masks, is_mask, separate_masks
from gantk.data.sources.pairing import find_pairs
from gantk.data.sources.reader import Item
from gantk.data.sources.source import Channels, FileSource, VolumeSource
from gantk.errors import UserError
from gantk.formats import files as io


@dataclass(kw_only=True)
class Folders(VolumeSource):
    """Images of two domains in folders: trainA/trainB, folders named after the domains, or any two
    folders or globs.

    Pairs come from a CSV in the folder or from equal names. All methods are evaluated on pairs;
    paired methods also train on them. With 2-D networks, volumes (NIfTI) are cut into axial slices.
    """

    # folder, glob or word of file names of the first domain, in `path` if given; "" = its name
    a: str = ""
    b: str = ""  # the same for the second domain
    # CSV with a column of paths for each domain; "" = CSV in `path` or equal names; "none" = no pairs
    pairs: str = ""
    # regex whose group is the patient (in path or file name); "" = folders; "names" = file names
    patient: str = ""
    # word or glob of the file names of lesion masks, such as seg or mask*; "" = no masks
    mask: str = ""
    channels: Channels = None  # convert all images to gray (1) or colour (3); none = unchanged

    rank = 1
    found_for = (2,)
    guesses = True

    def __post_init__(self):
        if len(self.domains) != 2:
            what = (
                f"the source 'folders' needs two domains, but data.domains has {len(self.domains)}"
            )
            remedy = "use the source 'images' for images of one domain"
            raise UserError(what, where="data.source", remedy=remedy)

        if bool(self.a) != bool(self.b):
            raise UserError(
                "the source 'folders' has only one of the options a and b",
                where="data.source",
                allowed="path, or both a and b",
            )

        self.path = self.path or ("." if self.a else "")
        super().__post_init__()

    @classmethod
    def accepts(cls, path: Path) -> dict | None:
        """`{"path": ...}` where two folders, or files named T1 and T2 or CT and MR, are below
        `path`.
        """
        images = names.images_below(path)
        candidates = [("T1", "T2"), ("CT", "MR")]
        if not all(map(io.is_volume, images)):
            named = paths_with_contrasts(images).values()
            said = (names.contrast_said(image.relative_to(path)) for image in named)
            most = Counter(filter(None, said)).most_common(2)
            if len(most) == 2:
                candidates.append((most[0][0], most[1][0]))
            candidates.append(("A", "B"))

        for domains in candidates:
            with suppress(UserError):
                if _are_domains(names.discover(path, domains, images)):
                    return {"path": str(path)}

        return None

    def records(self) -> list[Record]:
        """One record for every picture or plane; UserError for folders that are missing, empty or
        hold one image.
        """
        items, masks = self._items()
        find_masks(items, masks, self.root, self.mask, self.domains)
        find_pairs(items, self.root, self.pairs)
        return self.records_of(set_keys_and_patients(items, self))

    def _items(self) -> tuple[list[Item], list[Path]]:
        """The images of both domains, and the masks: by the folders or globs that the options name,
        else by names.
        """
        asked = [self.asked[letter] for letter in "ab"]
        if self.a and all((self.root / each).is_dir() or names.GLOB.search(each) for each in asked):
            return self._items_of_options()

        images, masks = separate_masks(
            io.list_images(self.root, recursive=True), self.root, self.mask, self.words
        )
        return names.discover(self.root, (self.words["a"], self.words["b"]), images), masks

    def _items_of_options(self) -> tuple[list[Item], list[Path]]:
        """The images of the folders or globs that the options name, and the masks among all files
        there.
        """
        items = []
        listed = io.list_images(self.root, recursive=True) if self.root.parts else []
        for letter, domain in self.names.items():
            folder, images = names.images_of(
                self.root / self.asked[letter], f"data.source.{letter}"
            )
            listed += [] if self.root.parts else io.list_images(folder, recursive=True)
            images = [image for image in images if not is_mask(image, self.root, self.mask)]
            images = names.without_labels(images, folder, [self.asked[letter]])
            items += names.items_in(folder, dict.fromkeys(images, (letter, None)), {letter: domain})

        splits = [
            {item.split for item in items if item.letter == letter} - {None} for letter in "ab"
        ]
        if splits[0] != splits[1]:  # splits count only if both domains have the same
            items = [replace(item, split=None) for item in items]

        return items, separate_masks(sorted(set(listed)), self.root, self.mask, self.words)[1]


def set_keys_and_patients(items: list[Item], source: FileSource) -> list[Item]:
    """Set key and patient of items: folders are patients if most files lie in numbered ones, such
    as `patient07`.
    """
    by_folder = 2 * sum(bool(parts_with_digits(item.place)) for item in items) > len(items)
    if source.pattern:
        subjects = None
    elif by_folder:
        subjects = patients_of_folders([item.place for item in items])
    elif source.patient == "names":
        subjects = patients_in_names(items, "accept")
    else:
        subjects = patients_in_names(items, source.on_ambiguous)

    for place, item in enumerate(items):
        item.key = source.key_of(item.display_path)
        item.subject = subjects[place] if subjects else ""
        if source.pattern:
            item.subject = names.patient_of(item.key, source.pattern)

    return items


def classes_of(records: Sequence[Record], domains: Sequence[str]) -> tuple[str, ...]:
    """The sorted classes of the records of these domains; UserError where some have none."""
    needed = [record for record in records if record.domain in domains]
    without = [record.key for record in needed if record.label is None]
    if without:
        what = f"{len(without)} of {len(needed)} images have no class. The first is '{without[0]}'"
        remedy = "put every image into a folder named after its class, or set data.labels = false"
        raise UserError(what, where="data.labels", remedy=remedy)
    return tuple(sorted({record.label for record in needed if record.label is not None}))


def nameless(path: Path, domains: Sequence[str]) -> str | None:
    """A note that no name below a path contains a recipe's domains, so that they are called A and
    B.

    None where names contain a domain or another contrast, and where the domains are no usual
    contrasts.
    """
    if not any(map(usual_contrast, domains)):
        return None

    named = paths_with_contrasts(names.images_below(path))
    images = [image.relative_to(path) for image in named.values()]
    words = {path.resolve().name} if len(domains) == 1 else set()
    for image in images:
        words |= {*image.parts[:-1], io.stem_of(image)}

    if any(names.domain_match(word, name) > 1 for word in words for name in domains):
        return None

    groups = {"a": images}
    if len(domains) == 2:
        with suppress(UserError):
            groups = _two_groups(path, images)
    if _groups_name_contrasts(list(groups.values())):
        return None

    called = " and ".join("AB"[: len(domains)])
    if len(groups) > 1:
        called = " and ".join(
            f"{letter.upper()} ({', '.join(own)})" if own else letter.upper()
            for letter, own in names.folders_apart(groups).items()
        )

    return (
        f"no file or folder name in '{path}' contains {' or '.join(domains)}, so the domains are"
        f" called {called}"
    )


def _groups_name_contrasts(groups: Sequence[Sequence[Path]]) -> bool:
    """Whether names say the contrast of a single group, or different ones of several groups."""
    said = [set(map(names.contrast_said, own)) - {None} for own in groups]
    if len(said) == 1:
        return bool(said[0])
    return any(own != said[0] for own in said)


def _two_groups(path: Path, images: Sequence[Path]) -> dict[str, list[Path]]:
    """The relative paths of two groups of images; UserError where there are none."""
    groups: dict[str, list[Path]] = {"a": [], "b": []}
    for item in names.discover(path, ("A", "B"), [path / image for image in images]):
        groups[item.letter].append(item.display_path.relative_to(path))
    return groups


def _are_domains(items: Sequence[Item]) -> bool:
    """Whether two groups are two domains; two groups of volumes that share contrasts are two
    patients.
    """
    if {item.letter for item in items} != {"a", "b"}:
        return False
    if not all(io.is_volume(item.display_path) for item in items):
        return True

    contrasts: dict[str, set[str | None]] = {"a": set(), "b": set()}
    for item in items:
        contrasts[item.letter].add(usual_contrast(io.stem_of(item.display_path)))

    return len((contrasts["a"] & contrasts["b"]) - {None}) < 2
