"""The data source over trees of volumes: NIfTI, NRRD and MetaImage files whose names say their
contrast.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from gantk.catalog import domains as names
from gantk.catalog.channels import channel_of, paths_with_contrasts
from gantk.catalog.contrasts import (
    CONTRASTS,
    contrast_in,
    exclude,
    one_word,
    usual_contrast,
    words_of,
)
from gantk.catalog.patients import parts_with_digits, patients_in_names, patients_of
from gantk.catalog.patterns import SPLIT_WORD
from gantk.data.preparation import Record
from gantk.data.sources.masks import find_masks, separate_masks
from gantk.data.sources.reader import Item
from gantk.data.sources.source import Onto, VolumeSource
from gantk.errors import UserError, count_noun
from gantk.formats import files as io


@dataclass(kw_only=True)
class Nifti(VolumeSource):
    """Trees of volumes (NIfTI, NRRD, MetaImage): one file per patient and contrast, or two groups
    of files.

    The domain of a file is given by a word in its name, or else in the names of its folders: the
    domain's name or a usual synonym (T1w for T1, T2_FLAIR for FLAIR). Patients are the folders with
    numbers, or else the file names without the contrast. The files of a patient are registered
    pairs if they share a grid. With `onto` they are resampled onto one grid by their headers.
    """

    # words (T1w) or glob below path (patient07/T1_*) of the first domain's files; "" = its name
    a: str = ""
    b: str = ""  # the same for the second domain
    # resample the other image of each patient onto the grid of this domain, by the headers
    onto: Onto = "none"
    # for 4-D files: the volume of each domain, counted from 0, such as [0, 1]
    volumes: tuple[int, ...] = ()
    # regex whose group is the patient (in path or file name); "" = folders
    patient: str = ""
    # word or glob of the file names of lesion masks, such as seg or mask*; "" = no masks
    mask: str = ""

    rank = 2
    one_contrast = True

    def __post_init__(self):
        super().__post_init__()
        if self.volumes and (len(self.volumes) != len(self.domains) or min(self.volumes) < 0):
            what = (
                f"volumes = {list(self.volumes)} does not choose one volume for each of"
                f" {count_noun(self.domains, 'domain')}"
            )
            allowed = "one number for each domain, counted from 0"
            raise UserError(what, where="data.source.volumes", allowed=allowed)

    @classmethod
    def accepts(cls, path: Path) -> dict | None:
        """`{"path": ...}` if all images below `path` are volumes and their names state two or more
        contrasts.
        """
        images = names.images_below(path)
        said = set()
        for image, named in paths_with_contrasts(images).items():
            word, _ = _contrast_in_path(named.relative_to(path), set())
            if word:
                said.add(CONTRASTS[word])
            elif named != image:
                said.add(channel_of(image))

        return {"path": str(path)} if len(said) > 1 and all(map(io.is_volume, images)) else None

    def records(self) -> list[Record]:
        """A record for every volume, or every plane of a volume; UserError where a domain has no
        files.
        """
        files = filter(io.is_volume, io.list_images(self.root, recursive=True))
        images, masks = separate_masks(list(files), self.root, self.mask, self.words)
        items = self._items(images)
        names.only_if_several(items)
        find_masks(items, masks, self.root, self.mask, self.domains, one_grid=self.onto == "none")
        beside = Counter((item.place, item.letter) for item in items)
        several = len({item.place for item in items}) > 1
        folders = patients_of((item.place for item in items), whole=False)
        by_name = self._patients_by_name(items)
        for item, patient in zip(items, by_name, strict=True):
            place = item.place
            if place and beside[place, "a"] == beside[place, "b"] == 1:
                item.study = "/".join(place)
            else:
                item.study = item.name

            item.subject = patient
            if self.pattern:
                item.subject = names.patient_of(item.key, self.pattern)
            elif (several and parts_with_digits(place)) or (
                place and beside[place, item.letter] == 1
            ):
                item.subject = folders[place]

        return self.records_of(items)

    def _patients_by_name(self, items: Sequence[Item]) -> list[str]:
        """The patient of each file by its name alone."""
        stems = [
            replace(item, place=(), stem=item.stem or io.stem_of(item.display_path))
            for item in items
        ]
        return patients_in_names(stems, "ignore") or [""] * len(items)

    def _items(self, images: Sequence[Path]) -> list[Item]:
        """The files of each domain, in natural order."""
        words = {letter: one_word(name) for letter, name in self.names.items()}
        asked = {one_word(text) for text in self.words.values() if text.isalnum()}
        wanted = {*words.values(), *(asked if len(asked) > 1 else ())}
        contrasts: dict[Path, str | None] = {}
        stems = {}
        for image, named in paths_with_contrasts(images).items():
            contrasts[image], stems[image] = _contrast_in_path(named.relative_to(self.root), wanted)

        items: list[Item] = []
        for letter, volume in zip(words, self.volumes or (None,) * len(words), strict=True):
            for image in self._of_domain(letter, contrasts, words):
                folders = image.relative_to(self.root).parts[:-1]
                item = Item(letter, image, self.key_of(image), split=names.split_of(folders))
                item.volume = volume
                item.place = _place(folders, wanted)
                item.stem = stems[image]
                items.append(item)

        counts = Counter(item.source for item in items)
        twice = [source for source, count in counts.items() if count > 1]
        if twice and len(set(self.volumes)) < 2:
            raise self.in_both(twice[0])

        return items

    def _of_domain(
        self, letter: str, contrasts: dict[Path, str | None], words: dict[str, str]
    ) -> list[Path]:
        """The images of a domain: those that match its option, else those whose path states its
        contrast.
        """
        text = self.asked[letter]
        folder = self.root / text
        if not text:
            chosen = self._of_contrast(letter, contrasts, words)
        elif names.GLOB.search(text) or folder.is_dir():
            is_path = "/" in text or folder.is_dir()
            pattern = folder if is_path else self.root / "**" / text
            matched = set(names.images_of(pattern, f"data.source.{letter}")[1])
            chosen = [image for image in contrasts if image in matched]
        else:
            chosen = self._with_words(text, contrasts)

        if not chosen:
            raise self._no_file(letter, contrasts)

        return chosen

    def _of_contrast(
        self, letter: str, contrasts: dict[Path, str | None], words: dict[str, str]
    ) -> list[Path]:
        """The images whose path states the domain's contrast; all if none states another one, and
        there is one domain.
        """
        chosen = names.of_contrast(contrasts, words[letter], {*words.values()} - {words[letter]})
        if chosen or len(words) > 1:
            return chosen

        usual = usual_contrast(self.names[letter])
        others = any(exclude(CONTRASTS.get(word or ""), usual) for word in contrasts.values())
        return [] if others else list(contrasts)

    def _with_words(self, text: str, contrasts: dict[Path, str | None]) -> list[Path]:
        """The images whose relative path has all words of a text, else those of its contrast."""
        wanted = {word.lower() for word in words_of(text)}
        if not wanted:
            return []

        chosen = []
        for image in contrasts:
            name = str(image.relative_to(self.root).with_name(io.stem_of(image)))
            if wanted <= {word.lower() for word in words_of(name)}:
                chosen.append(image)

        return chosen or names.of_contrast(contrasts, one_word(text), set())

    def _no_file(self, letter: str, contrasts: dict[Path, str | None]) -> UserError:
        """The error for a domain without a file."""
        text = self.asked[letter]
        what = f"matches '{text}'" if text else f"is named '{self.names[letter]}'"
        there = ", ".join(f"'{image.relative_to(self.root)}'" for image in list(contrasts)[:4])
        if there:
            there = f". Files found: {there}"
        else:
            there = f". It contains no volumes ({', '.join(io.volume_suffixes())})"

        allowed = "words of the file names, or a glob below path"
        said = {CONTRASTS.get(word or "") for word in contrasts.values()}
        return self.nothing_of(letter, f"no file in '{self.root}' {what}{there}", allowed, said)


def _place(folders: Sequence[str], wanted: set[str]) -> tuple[str, ...]:
    """The folders of an image without the words for contrasts and splits."""
    place = []
    for folder in folders:
        rest = contrast_in(folder, wanted)[1]
        if rest and (parts_with_digits([rest]) or not SPLIT_WORD.match(rest)):
            place.append(rest)
    return tuple(place)


def _contrast_in_path(shown: Path, wanted: set[str]) -> tuple[str | None, str]:
    """The contrast stated in a relative path (file name first, then the nearest folder), and the
    name without it.
    """
    word, rest = contrast_in(io.stem_of(shown), wanted)
    folders = (contrast_in(part, wanted)[0] for part in reversed(shown.parts[:-1]))
    return word or next(filter(None, folders), None), rest
