"""Lesion masks: which file is the mask of which image."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from fnmatch import fnmatch
from pathlib import Path

from gantk.data.sources.file_names import SPLIT_WORD, Found, bare_stem, domain_match, split_of
from gantk.errors import UserError
from gantk.formats.contrasts import words_of
from gantk.formats.files import difference, stem_of

GLOB = re.compile(r"[*?\[]")


def separate_masks(images: Sequence[Path], root: Path, name: str) -> tuple[list[Path], list[Path]]:
    """Images and masks: a mask has `name` as a word, or matches it as a glob, in its own or in a folder's name.

    Nothing of that name is a UserError. An empty `name`: there are no masks.
    """
    masks = [path for path in images if is_mask(path, root, name)]
    if name and images and not masks:
        shown = ", ".join(f"'{path.name}'" for path in images[:4])
        allowed = "a word of the masks' names or folders, such as seg, or a glob, such as mask*"
        what = f"no file in '{root}' is named '{name}'; there are {shown}"
        raise UserError(what, where="data.source.mask", allowed=allowed)
    apart = set(masks)
    return [path for path in images if path not in apart], masks


def is_mask(image: Path, root: Path, name: str) -> bool:
    """Whether a file below `root`, or a folder that holds it, has the name of masks; with an empty name none has."""
    if not name:
        return False
    *folders, file = _below(image, root).parts
    if GLOB.search(name):
        texts = ("/".join((*folders, file)), *folders, file, stem_of(image))
        return any(fnmatch(text.lower(), name.lower()) for text in texts)
    wanted = " ".join(words_of(name)).lower()
    parts = [" ".join(words_of(SPLIT_WORD.sub("", part))).lower() for part in (*folders, stem_of(image))]
    return any(f" {wanted} " in f" {part} " or f" {wanted}s " in f" {part} " for part in parts)  # a folder of masks


def masks_of(
    found: Sequence[Found],
    masks: Sequence[Path],
    root: Path,
    name: str,
    domains: Sequence[str],
    one_grid: bool = True,
) -> dict[Path, Path]:
    """The mask of each image that has one: named alike in the same patient's place, else the only one beside it.

    Two that fit equally well, and, with `one_grid`, a mask on another grid than its image, are a UserError.
    """
    alike: dict[str, list[Path]] = defaultdict(list)
    beside: dict[Path, list[Path]] = defaultdict(list)
    for mask in masks:
        alike[_bare_name(mask, name, domains)].append(mask)
        beside[mask.parent].append(mask)
    alone = Counter((image.letter, image.path.parent) for image in found)
    chosen = {}
    for image in found:
        fitting = []
        for mask in alike[bare_stem(image.stem, domains)]:
            parts = _below(mask, root).parts[:-1]
            if set(image.place) <= set(parts) and (image.split is None or split_of(parts) in (None, image.split)):
                fitting.append(mask)
        if not fitting and alone[image.letter, image.path.parent] == 1 and len(beside[image.path.parent]) == 1:
            fitting = beside[image.path.parent]
        if fitting:
            chosen[image.path] = _clearest(fitting, image, domains, root)
            if one_grid:
                expect_one_grid(chosen[image.path], image.path)
    return chosen


def expect_one_grid(mask: Path, image: Path) -> None:
    """UserError that names both where a mask does not lie on its image's voxels."""
    if differs := difference(mask, image):
        what = f"the mask '{mask}' is on another grid than its image '{image}': {differs}"
        remedy = "resample the mask onto its image's grid, or leave both out"
        raise UserError(what, where="data.source.mask", remedy=remedy)


def expect_one_mask(masks: Sequence[Path], image: Path) -> None:
    """UserError that names the first two of several masks of one image, or folder."""
    if len(masks) > 1:
        what = f"'{image}' has two masks: '{masks[0]}' and '{masks[1]}'"
        remedy = "name the masks more exactly, for example with a glob"
        raise UserError(what, where="data.source.mask", remedy=remedy)


def _below(path: Path, root: Path) -> Path:
    return path.relative_to(root) if path.is_relative_to(root) else path


def _bare_name(mask: Path, name: str, domains: Sequence[str]) -> str:
    """What a mask's name shares with its image's: without the word for masks and the domains' names."""
    if GLOB.search(name):
        text = mask.name
        for literal in re.split(r"[*?]|\[[^\]]*\]", name.rpartition("/")[2]):
            text = re.sub(re.escape(literal), "", text, flags=re.IGNORECASE) if len(literal) > 1 else text
        stem = stem_of(text)
    else:
        wanted = {word.lower() for word in words_of(name)}
        pieces = re.split(r"([_\-. ]+)", stem_of(mask))
        stem = "".join(piece for piece in pieces if not wanted & {word.lower() for word in words_of(piece)})
    return bare_stem(stem, domains)


def _clearest(masks: Sequence[Path], image: Found, domains: Sequence[str], root: Path) -> Path:
    """The mask that names its image's domain, else the one that lies nearest to it."""
    own = domains["ab".index(image.letter)] if image.letter in "ab" else ""

    def score(mask: Path) -> tuple[int, int]:
        parts = [*_below(mask, root).parts[:-1], stem_of(mask)]
        names = {domain for domain in domains for part in parts if domain and domain_match(part, domain) >= 2}
        shared = sum(1 for one, other in zip(mask.parts, image.path.parts, strict=False) if one == other)
        return (own in names) - bool(names - {own}), shared

    ranked = sorted(masks, key=score, reverse=True)
    expect_one_mask([mask for mask in ranked if score(mask) == score(ranked[0])], image.path)
    return ranked[0]
