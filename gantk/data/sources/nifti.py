"""The data source over trees of volumes: NIfTI, NRRD and MetaImage files told apart by the words of their names."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from gantk.data.items import Record, contrast_names, domain_letters
from gantk.data.resample import SamplingGrid
from gantk.data.sources.contrast_names import MEANING, contrast_in, plain, same_contrast
from gantk.data.sources.file_names import SPLIT_WORD, Found, split_of, words_of
from gantk.data.sources.masks import masks_of, set_masks_apart
from gantk.data.sources.reading import expected_records, needed_path, patient_of, patient_pattern
from gantk.data.sources.volumes import Item, Onto, Reader, paired
from gantk.errors import UserError
from gantk.formats import files as io


@dataclass(frozen=True)
class Named:
    """A file of one domain, and what its path says beside the domain."""

    path: Path
    letter: str
    parts: tuple[str, ...]  # folders below the root, without the domain's name and without split folders
    rest: str  # the file's name without suffix and domain
    split: str | None
    exact: bool  # named like the domain itself, not by a synonym


class Nifti:
    """Trees of volumes (NIfTI, NRRD, MetaImage), each patient with a file of each contrast, or in two groups.

    Files belong to a domain by a word of their names, or else of their folders': its own name, or a usual synonym (T1w
    for T1, T2_FLAIR for FLAIR). Patients are the numbered folders, else the files' names without the contrast. A
    patient's files are registered pairs where they lie on one grid, or with `onto`, which brings them onto one by
    their headers.
    """

    def __init__(
        self,
        domains: tuple[str, ...],
        dims: int,
        size: tuple[int, ...],
        *,
        path: str = "",  # folder below which the volumes lie
        a: str = "",  # words (T1w), or a glob below path (patient07/T1_*), of the first domain's files; "" = its name
        b: str = "",  # the same for the second domain
        onto: Onto = "none",  # resample a patient's other image onto the grid of this one, by their headers
        volumes: tuple[int, ...] = (),  # which volume of 4-D files each domain takes, counted from 0; () = files of one
        patient: str = "",  # regex whose group is the patient, searched in relative path, then stem; "" = folders
        mask: str = "",  # word or glob that names lesion masks, such as seg or mask*: they go with their images
        planes: tuple[float, float] = (0.25, 0.75),  # which slices of a volume 2-D networks see, as shares of its stack
    ):
        for name in domains:
            if len(contrast_names(name)) > 1:
                what = f"'{name}' is {len(contrast_names(name))} contrasts, and 'nifti' gives one for each domain"
                raise UserError(what, where="data.domains", remedy='set data.source.name = "contrasts"')
        self.root, self.asked, self.onto = needed_path(path, "nifti"), {"a": a, "b": b, "image": a}, onto
        self.domains = dict(zip(domain_letters(domains), domains, strict=True))
        if volumes and (len(volumes) != len(domains) or min(volumes) < 0):
            what = f"{list(volumes)} does not choose a volume for each of {len(domains)} domains"
            raise UserError(what, where="data.source.volumes", allowed="a number from 0 on for each domain")
        self.volumes = dict(zip(self.domains, volumes, strict=False))
        self.patient, self.mask, self.planes = patient_pattern(patient), mask, planes
        self.reader = Reader(dims)

    @classmethod
    def accepts(cls, path: Path) -> dict | None:
        """`{"path": ...}` where all images below `path` are volumes, of two or more contrasts known by name."""
        try:
            images = io.list_images(path, recursive=True)
        except UserError:
            return None
        if not images or any(not io.is_volume(image) for image in images):
            return None
        meant = {MEANING.get(_said(image.relative_to(path), set())[0] or "") for image in images} - {None}
        return {"path": str(path)} if len(meant) > 1 else None

    def sees(self, view: SamplingGrid) -> None:
        """Take the slices of volumes along this plane, at this spacing: asked for before `records`."""
        self.reader.view = view

    def records(self) -> list[Record]:
        """One record for every volume, or for every plane of it; UserError where a domain has no files."""
        listed = [image for image in io.list_images(self.root, recursive=True) if io.is_volume(image)]
        images, masks = set_masks_apart(listed, self.root, self.mask)
        named = self._named(images)
        found = [Found(one.path, one.letter, one.split, _unsaid(one, self.root), one.rest) for one in named]
        names = tuple(self.domains.values())
        masked = masks_of(found, masks, self.root, self.mask, names, one_grid=self.onto == "none")
        beside = Counter((one.parts, one.letter) for one in named)
        items = paired([self._item(one, beside, masked.get(one.path)) for one in named], self.onto)
        return expected_records(items, self.reader, self.planes, self.domains, self.root)

    def _item(self, one: Named, beside: Counter, mask: Path | None) -> Item:
        alone = beside[one.parts, "a"] == beside[one.parts, "b"] == 1
        shown = one.path.relative_to(self.root).as_posix()
        return Item(
            letter=one.letter,
            source=one.path,
            key=shown,
            subject=patient_of(shown, self.patient) if self.patient else _subject(one, beside),
            study="/".join(one.parts if alone and one.parts else (*one.parts, one.rest)) or "scan",
            split=one.split,
            mask=mask,
            volume=self.volumes.get(one.letter),
        )

    def _named(self, images: Sequence[Path]) -> list[Named]:
        """The files of each domain, in natural order."""
        wanted = {letter: plain(name) for letter, name in self.domains.items()}
        said = {image: _said(image.relative_to(self.root), set(wanted.values())) for image in images}
        named = []
        for letter in self.domains:
            word = wanted[letter]
            others = set(wanted.values()) - {word}
            if self.asked[letter]:
                chosen = self._asked_for(letter, images)
            else:
                chosen = [i for i in images if same_contrast(said[i][0] or "", word) and said[i][0] not in others]
                chosen = images if not chosen and len(self.domains) == 1 else chosen
            if not chosen:
                self._nothing_of(letter, images)
            named += [self._one(image, letter, said[image], word) for image in chosen]
        twice = [path for path, count in Counter(one.path for one in named).items() if count > 1]
        if twice and len(set(self.volumes.values())) < 2:
            what = f"'{twice[0]}' belongs to both domains, {' and '.join(self.domains.values())}"
            raise UserError(what, where="data.source", remedy="make data.source.a and data.source.b more exact")
        # What is named like the domain wins over a synonym in the same place: T1 over T1w.
        exact = {(one.letter, one.path.parent) for one in named if one.exact}
        named = [one for one in named if one.exact or (one.letter, one.path.parent) not in exact]
        splits = {one.split for one in named} - {None}
        return named if len(splits) > 1 else [Named(**vars(one) | {"split": None}) for one in named]

    def _one(self, image: Path, letter: str, said: tuple[str | None, str], word: str) -> Named:
        wanted = {plain(name) for name in self.domains.values()}
        folders = image.relative_to(self.root).parts[:-1]
        kept = (contrast_in(part, wanted)[1] for part in folders if not SPLIT_WORD.match(part))
        exact = bool(self.asked[letter]) or said[0] == word or not said[0]
        return Named(image, letter, tuple(filter(None, kept)), said[1], split_of(folders), exact)

    def _asked_for(self, letter: str, images: Sequence[Path]) -> list[Path]:
        """The images that the option for a domain means: a glob, a folder, or words of file and folder names."""
        text = self.asked[letter]
        if any(sign in text for sign in "*?["):
            if Path(text).is_absolute():
                raise UserError(f"'{text}' is absolute", where=f"data.source.{letter}", allowed="a glob below path")
            try:
                matched = set(self.root.glob(text) if "/" in text else self.root.rglob(text))
            except ValueError as error:
                raise UserError(f"'{text}' is no glob: {error}", where=f"data.source.{letter}") from error
            return [image for image in images if image in matched]
        if (self.root / text).is_dir():
            return [image for image in images if image.is_relative_to(self.root / text)]
        words = [word.lower() for word in words_of(text)]

        def has(image: Path) -> bool:
            shown = image.relative_to(self.root)
            there = {word.lower() for part in (*shown.parts[:-1], io.stem_of(image)) for word in words_of(part)}
            return bool(words) and set(words) <= there

        return [image for image in images if has(image)]

    def _nothing_of(self, letter: str, images: Sequence[Path]) -> None:
        shown = ", ".join(f"'{image.relative_to(self.root)}'" for image in images[:4])
        there = f"; there are {shown}" if shown else f", nor any volume ({', '.join(io.volume_suffixes())})"
        option = "a" if letter == "image" else letter
        asked = self.asked[letter]
        raise UserError(
            f"no file in '{self.root}' {'matches' if asked else 'is named'} '{asked or self.domains[letter]}'{there}",
            where=f"data.source.{option}",
            allowed="words of the files' names, or a glob below path",
        )


def _said(shown: Path, wanted: set[str]) -> tuple[str | None, str]:
    """The contrast that a relative path says, nearest to the file's name, and the name without it."""
    word, rest = contrast_in(io.stem_of(shown), wanted)
    for part in () if word else reversed(shown.parts[:-1]):
        word = contrast_in(part, wanted)[0]
        if word:
            break
    return word, rest


def _unsaid(one: Named, root: Path) -> tuple[str, ...]:
    """The folders whose names are kept whole: those of a patient, in which masks lie too."""
    return tuple(part for part in one.path.relative_to(root).parts[:-1] if part in one.parts)


def _subject(one: Named, beside: Counter) -> str:
    """The first numbered folder, else the folders of a file that is alone there, else the file's name."""
    if len({parts for parts, _ in beside}) > 1:
        numbered = [part for part in one.parts if any(map(str.isdigit, part))]
        if numbered:
            return numbered[0]
    names = (one.rest,) if beside[one.parts, one.letter] > 1 or not one.parts else one.parts
    return "/".join(filter(None, names)) or io.stem_of(one.path)
