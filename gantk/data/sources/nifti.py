"""The data source over trees of volumes: NIfTI, NRRD and MetaImage files whose names say their contrast."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from gantk.data.preparation import Record
from gantk.data.sources.file_names import (
    SPLIT_WORD,
    Found,
    images_below,
    numbered,
    only_if_several,
    patient_of,
    split_of,
)
from gantk.data.sources.masks import masks_of, separate_masks
from gantk.data.sources.reader import Item
from gantk.data.sources.source import Onto, VolumeSource
from gantk.errors import UserError
from gantk.formats import files as io
from gantk.formats.contrasts import CONTRASTS, contrast_in, one_word, same_contrast, words_of


@dataclass(frozen=True)
class Named(Found):
    """A volume; its `place` are the folders that say nothing but the patient, in which masks lie too."""

    parts: tuple[str, ...]  # all folders, without the domain's name and without split folders
    exact: bool  # named like the domain itself, not by a synonym


class Nifti(VolumeSource):
    """Trees of volumes (NIfTI, NRRD, MetaImage), each patient with a file of each contrast, or in two groups.

    Files belong to a domain by a word of their names, or else of their folders': its own name, or a usual synonym (T1w
    for T1, T2_FLAIR for FLAIR). Patients are the numbered folders, else the files' names without the contrast. A
    patient's files are registered pairs where they lie on one grid, or with `onto`, which brings them onto one by
    their headers.
    """

    kind, one_contrast, rank = "nifti", True, 2

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
        self.set_up(domains, dims, path, planes, onto=onto, patient=patient, mask=mask, asked=(a, b))
        if volumes and (len(volumes) != len(domains) or min(volumes) < 0):
            what = f"{list(volumes)} does not choose a volume for each of {len(domains)} domains"
            raise UserError(what, where="data.source.volumes", allowed="a number from 0 on for each domain")
        self.volumes = dict(zip(self.domains, volumes, strict=False))

    @classmethod
    def accepts(cls, path: Path) -> dict | None:
        """`{"path": ...}` where all images below `path` are volumes, of two or more contrasts known by name."""
        images = images_below(path)
        said = {CONTRASTS.get(_contrast_in_path(image.relative_to(path), set())[0] or "") for image in images} - {None}
        return {"path": str(path)} if len(said) > 1 and all(map(io.is_volume, images)) else None

    def records(self) -> list[Record]:
        """One record for every volume, or for every plane of it; UserError where a domain has no files."""
        listed = [image for image in io.list_images(self.root, recursive=True) if io.is_volume(image)]
        images, masks = separate_masks(listed, self.root, self.mask)
        named, names = self._named(images), tuple(self.domains.values())
        masked = masks_of(named, masks, self.root, self.mask, names, one_grid=self.onto == "none")
        beside = Counter((one.parts, one.letter) for one in named)
        items = []
        for one in named:
            alone = beside[one.parts, "a"] == beside[one.parts, "b"] == 1
            key = one.path.relative_to(self.root).as_posix()
            subject = patient_of(key, self.patient) if self.patient else _subject(one, beside)
            study = "/".join(one.parts if alone and one.parts else (*one.parts, one.stem)) or "scan"
            known = {"mask": masked.get(one.path), "volume": self.volumes.get(one.letter)}
            items.append(Item(one.letter, one.path, key, subject, study, one.split, **known))
        return self.records_of(items)

    def _named(self, images: Sequence[Path]) -> list[Named]:
        """The files of each domain, in natural order."""
        words = {letter: one_word(name) for letter, name in self.domains.items()}
        said = {image: _contrast_in_path(image.relative_to(self.root), set(words.values())) for image in images}
        named = []
        for letter, word in words.items():
            if self.asked[letter]:
                chosen = self._asked_for(letter, images)
            else:
                others = {*words.values()} - {word}
                chosen = [i for i in images if same_contrast(said[i][0] or "", word) and said[i][0] not in others]
                chosen = images if not chosen and len(words) == 1 else chosen
            if not chosen:
                there = ", ".join(f"'{image.relative_to(self.root)}'" for image in images[:4])
                there = f"; there are {there}" if there else f", nor any volume ({', '.join(io.volume_suffixes())})"
                asked = self.asked[letter] and f"matches '{self.asked[letter]}'"
                what = f"no file in '{self.root}' {asked or f'is named {self.domains[letter]!r}'}{there}"
                raise self.nothing_of(letter, what, "words of the files' names, or a glob below path")
            for image in chosen:
                folders = image.relative_to(self.root).parts[:-1]
                rests = (contrast_in(part, {*words.values()})[1] for part in folders if not SPLIT_WORD.match(part))
                parts = tuple(filter(None, rests))
                place = tuple(part for part in folders if part in parts)
                exact = bool(self.asked[letter]) or said[image][0] in (word, None)
                named.append(Named(image, letter, split_of(folders), place, said[image][1], parts, exact))
        twice = [path for path, count in Counter(one.path for one in named).items() if count > 1]
        if twice and len(set(self.volumes.values())) < 2:
            raise self.in_both(twice[0])
        # What is named like the domain wins over a synonym in the same place: T1 over T1w.
        exact = {(one.letter, one.path.parent) for one in named if one.exact}
        named = [one for one in named if one.exact or (one.letter, one.path.parent) not in exact]
        splits = only_if_several(one.split for one in named)
        return [replace(one, split=split) for one, split in zip(named, splits, strict=True)]

    def _asked_for(self, letter: str, images: Sequence[Path]) -> list[Path]:
        """The images that the option for a domain means: a glob, a folder, or words of file and folder names."""
        text = self.asked[letter]
        if any(sign in text for sign in "*?["):
            try:
                matched = set(self.root.glob(text) if "/" in text else self.root.rglob(text))
            except (ValueError, NotImplementedError) as error:
                what = f"'{text}' is no glob: {error}"
                raise UserError(what, where=f"data.source.{letter}", allowed="a glob below path") from error
            return [image for image in images if image in matched]
        if (self.root / text).is_dir():
            return [image for image in images if image.is_relative_to(self.root / text)]
        words = {word.lower() for word in words_of(text)}
        said = {image: str(image.relative_to(self.root).with_name(io.stem_of(image))) for image in images}
        return [i for i in images if words and words <= {word.lower() for word in words_of(said[i])}]


def _contrast_in_path(shown: Path, wanted: set[str]) -> tuple[str | None, str]:
    """The contrast that a relative path says, nearest to the file's name, and that name without it."""
    word, rest = contrast_in(io.stem_of(shown), wanted)
    folders = (contrast_in(part, wanted)[0] for part in reversed(shown.parts[:-1]))
    return word or next(filter(None, folders), None), rest


def _subject(one: Named, beside: Counter) -> str:
    """The first numbered folder, else the folders of a file that is alone there, else the file's name."""
    if len({parts for parts, _ in beside}) > 1 and numbered(one.parts):
        return numbered(one.parts)[0]
    names = (one.stem,) if beside[one.parts, one.letter] > 1 or not one.parts else one.parts
    return "/".join(filter(None, names)) or io.stem_of(one.path)
