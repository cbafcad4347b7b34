"""Masks: which files are masks, by the option `mask`, and of which image each one is."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from fnmatch import fnmatch
from pathlib import Path

from gantk.catalog.catalog import Row, compose_text
from gantk.catalog.contrasts import ContrastWords, words_of
from gantk.catalog.domains import GLOB, relative_to
from gantk.catalog.words import SPLIT, whole
from gantk.errors import NothingFound, UserError
from gantk.formats.files import stem_of


def masks_named(images: Sequence[Path], root: Path, name: str) -> list[Path]:
    """The images with the name of masks, a word or a glob; UserError where there is none. [] for an
    empty name.
    """
    if not name or not images:
        return []
    masks = [image for image in images if _is_mask(image, root, name)]
    if not masks:
        said = ContrastWords().said  # masks seldom say a contrast
        likely = sorted((path.name for path in images), key=lambda name: len(said(name)))
        shown = ", ".join(map(repr, likely[:4]))
        raise NothingFound(
            f"no file in '{root}' matches the mask name '{name}'. Files found: {shown}",
            where="data.source.mask",
            allowed="a word of the masks' file or folder names, such as seg, or a glob, such as mask*",
        )
    return masks


def mask_word(images: Sequence[str], words: ContrastWords) -> tuple[str, list[str]]:
    """The word that names all images of no contrast, which may be masks, and no others, "" without
    one; and these others.
    """
    others = [image for image in images if words.said(image)]
    masks = [Path(image) for image in images if not words.said(image)]
    return word_of_masks(masks, [*map(Path, images)], Path()), others


def word_of_masks(masks: Sequence[Path], images: Sequence[Path], root: Path) -> str:
    """The word that names these masks among all images below `root`, and no others; "" without one."""
    words = words_of(stem_of(masks[0])) if masks else []
    return next((word for word in words if masks_named(images, root, word) == masks), "")


def _is_mask(image: Path, root: Path, name: str) -> bool:
    """Whether a file below `root`, or a folder that holds it, has the name of masks."""
    *folders, file = parts = relative_to(image, root).parts
    stem = stem_of(file)
    if GLOB.search(name):
        texts = ("/".join(parts), *parts, stem)
        return any(fnmatch(text.lower(), name.lower()) for text in texts)
    wanted = " ".join(words_of(name)).lower()
    names = [f" {' '.join(words_of(part)).lower()} " for part in (*folders, stem)]
    # a folder of masks has the plural
    return any(f" {wanted} " in words or f" {wanted}s " in words for words in names)


def set_masks(
    rows: Sequence[Row], masks: Sequence[Path], root: Path, name: str, words: ContrastWords
) -> None:
    """Set the mask of rows: of the same name in the folder of the same patient, else the only one
    beside the only image. UserError for two masks that fit equally well.
    """
    alike: dict[tuple[str, ...], list[Path]] = defaultdict(list)
    beside: dict[Path, list[Path]] = defaultdict(list)
    for mask in masks:
        alike[_name_words(mask, words, name)].append(mask)
        beside[mask.parent].append(mask)

    images = Counter((row.contrast, row.path.parent) for row in rows)
    for row in rows:
        fitting = [mask for mask in alike[_name_words(row.path, words)] if _is_of(mask, row, root)]
        others = beside[row.path.parent]
        if not fitting and len(others) == images[row.contrast, row.path.parent] == 1:
            fitting = others
        if fitting:
            nearness = {mask: _nearness(mask, row, words) for mask in fitting}
            best = max(nearness.values())
            nearest = [mask for mask in fitting if nearness[mask] == best]
            expect_one_mask(nearest, row.path)
            row.mask = nearest[0]


def expect_one_mask(masks: Sequence[Path], image: Path) -> None:
    """UserError that names the first two of several masks of one image, or folder."""
    if len(masks) > 1:
        raise UserError(
            f"'{image}' has two masks: '{masks[0]}' and '{masks[1]}'",
            where="data.source.mask",
            remedy="make data.source.mask more specific, for example with a glob",
        )


def _name_words(path: Path, words: ContrastWords, mask_name: str = "") -> tuple[str, ...]:
    """The words of a name but for those of contrasts and of masks."""
    left = {word.lower() for word in re.findall(r"[A-Za-z0-9]+", mask_name)}
    found = [word.lower() for word in words_of(compose_text(stem_of(path)))]
    return tuple(word for word in found if word not in left and word not in words.contrast_of)


def _is_of(mask: Path, row: Row, root: Path) -> bool:
    """Whether a mask lies beside an image, or in folders of its split, patient and visit."""
    folders, own = (
        {*compose_text(relative_to(path, root).parent.as_posix()).split("/")}
        for path in (mask, row.path)
    )
    splits = {folder for folder in folders if whole(SPLIT, folder)}
    is_of_split = not row.split or not splits or row.split in splits
    of_patient = own & {*row.subject.split("/"), row.session}
    return mask.parent == row.path.parent or (is_of_split and of_patient <= folders)


def _nearness(mask: Path, row: Row, words: ContrastWords) -> tuple[int, int]:
    """Whether a mask's name has the image's contrast, or another, and how many folders both share."""
    said = words.said(stem_of(mask)) or words.said(mask.parent.name)
    shared = sum(one == other for one, other in zip(mask.parts, row.path.parts, strict=False))
    return (row.contrast in said) - bool(said - {row.contrast}), shared
