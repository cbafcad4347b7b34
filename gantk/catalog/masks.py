"""Masks: which files are masks, by their names, and of which image each one is."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Collection, Sequence
from fnmatch import fnmatch
from functools import lru_cache
from pathlib import Path

from gantk.catalog.catalog import Row, composed
from gantk.catalog.contrasts import contrast_in, one_word, words_of
from gantk.catalog.domains import GLOB, bare_stem, domain_match, relative_to, split_of
from gantk.catalog.patterns import MASK_FOLDER, MASK_NAME, SPLIT_WORD
from gantk.errors import NothingFound, UserError
from gantk.formats.files import stem_of


def without_labels(images: Sequence[Path], root: Path, words: Collection[str] = ()) -> list[Path]:
    """The images that neither their names nor their folders' below `root` call masks; all, if that
    leaves none.

    All as well if one of `words`, which the user chose for the domains, says masks.
    """

    @lru_cache
    def is_masks_folder(folder: Path) -> bool:
        return any(map(MASK_FOLDER.fullmatch, relative_to(folder, root).parts))

    if any(map(MASK_NAME.search, words)):
        return list(images)

    kept = []
    for image in images:
        if not MASK_NAME.search(stem_of(image)) and not is_masks_folder(image.parent):
            kept.append(image)

    return kept or list(images)


def masks_named(images: Sequence[Path], root: Path, name: str) -> list[Path]:
    """The images with the name of masks; UserError where there is none. [] for an empty name."""
    if not name or not images:
        return []

    masks = [image for image in images if _is_mask(image, root, name)]
    if not masks:
        shown = ", ".join(f"'{path.name}'" for path in images[:4])
        allowed = "a word of the masks' file or folder names, such as seg, or a glob, such as mask*"
        what = f"no file in '{root}' matches the mask name '{name}'. Files found: {shown}"
        raise NothingFound(what, where="data.source.mask", allowed=allowed)
    return masks


def _is_mask(image: Path, root: Path, name: str) -> bool:
    """Whether a file below `root`, or a folder that holds it, has the name of masks."""
    *folders, file = parts = relative_to(image, root).parts
    if GLOB.search(name):
        return any(
            fnmatch(text.lower(), name.lower())
            for text in ("/".join(parts), *parts, stem_of(image))
        )

    wanted = " ".join(words_of(name)).lower()
    names = [
        f" {' '.join(words_of(SPLIT_WORD.sub('', part))).lower()} "
        for part in (*folders, stem_of(file))
    ]
    # a folder of masks
    return any(f" {wanted} " in words or f" {wanted}s " in words for words in names)


def set_masks(
    rows: Sequence[Row], masks: Sequence[Path], root: Path, name: str, contrasts: Sequence[str]
) -> None:
    """Set the mask of rows: of the same name in the same patient's folder, else the only one beside
    the only image. UserError for two masks that fit equally well.
    """
    words = set(map(one_word, contrasts))
    alike: dict[str, list[Path]] = defaultdict(list)
    beside: dict[Path, list[Path]] = defaultdict(list)
    for mask in masks:
        alike[composed(_bare_name(mask, name, contrasts))].append(mask)
        beside[mask.parent].append(mask)

    images = Counter((row.contrast, row.path.parent) for row in rows)
    for row in rows:
        rule = "the same name"
        fitting = []
        for mask in alike[composed(bare_stem(row.stem, contrasts))]:
            folders = tuple(map(composed, relative_to(mask, root).parts[:-1]))
            bare = (contrast_in(part, words)[1] for part in folders)
            is_in_place = set(row.place) <= {*folders, *bare}
            if is_in_place and (not row.split or split_of(folders) in (None, row.split)):
                fitting.append(mask)

        own = beside[row.path.parent]
        if not fitting and len(own) == images[row.contrast, row.path.parent] == 1:
            rule = "the only mask beside the only image"
            fitting = own

        if fitting:
            row.mask = _clearest(fitting, row, contrasts, root)
            row.why["mask"] = rule


def expect_one_mask(masks: Sequence[Path], image: Path) -> None:
    """UserError that names the first two of several masks of one image, or folder."""
    if len(masks) > 1:
        what = f"'{image}' has two masks: '{masks[0]}' and '{masks[1]}'"
        remedy = "make data.source.mask more specific, for example with a glob"
        raise UserError(what, where="data.source.mask", remedy=remedy)


def _bare_name(mask: Path, name: str, contrasts: Sequence[str]) -> str:
    """What a mask's name shares with its image's: without the words for masks and contrasts."""
    if GLOB.search(name):
        text = mask.name
        for literal in re.split(r"[*?]|\[[^\]]*\]", name.rpartition("/")[2]):
            if len(literal) > 1:
                text = re.sub(re.escape(literal), "", text, flags=re.IGNORECASE)
        return bare_stem(stem_of(text), contrasts)

    wanted = {word.lower() for word in words_of(name)}
    pieces = re.split(r"([_\-. ]+)", stem_of(mask))
    return bare_stem(
        "".join(piece for piece in pieces if not wanted & set(map(str.lower, words_of(piece)))),
        contrasts,
    )


def _clearest(masks: Sequence[Path], row: Row, contrasts: Sequence[str], root: Path) -> Path:
    """The mask whose name contains the image's contrast, else the one in the nearest folder."""

    def score(mask: Path) -> tuple[int, int]:
        parts = [*relative_to(mask, root).parts[:-1], stem_of(mask)]
        names = {name for name in contrasts for part in parts if domain_match(part, name) >= 2}
        shared = sum(one == other for one, other in zip(mask.parts, row.path.parts, strict=False))
        return (row.contrast in names) - bool(names - {row.contrast}), shared

    best = max(map(score, masks))
    masks = [mask for mask in masks if score(mask) == best]
    expect_one_mask(masks, row.path)
    return masks[0]
