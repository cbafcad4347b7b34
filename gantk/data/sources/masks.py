"""Lesion masks: finds the mask file of each image."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path

from gantk.catalog.catalog import Row
from gantk.catalog.contrasts import contrast_in, one_word, words_of
from gantk.catalog.domains import GLOB, bare_stem, domain_match, relative_to, split_of
from gantk.errors import UserError
from gantk.formats.files import difference, stem_of


def find_masks(
    rows: Sequence[Row],
    masks: Sequence[Path],
    root: Path,
    name: str,
    domains: Sequence[str],
    one_grid: bool = True,
) -> None:
    """Set the mask of rows: of the same name in the same patient's folder, else the only one
    beside the only image.

    UserError for two masks that fit equally well and, with `one_grid`, for a mask on another grid
    than its image.
    """
    words = set(map(one_word, domains))
    alike: dict[str, list[Path]] = defaultdict(list)
    beside: dict[Path, list[Path]] = defaultdict(list)
    for mask in masks:
        alike[_bare_name(mask, name, domains)].append(mask)
        beside[mask.parent].append(mask)

    images = Counter((row.letter, row.display_path.parent) for row in rows)
    for row in rows if masks else ():
        fitting = []
        for mask in alike[bare_stem(row.stem, domains)]:
            folders = relative_to(mask, root).parts[:-1]
            bare = (contrast_in(part, words)[1] for part in folders)
            if set(row.place) <= {*folders, *bare} and (
                not row.split or split_of(folders) in (None, row.split)
            ):
                fitting.append(mask)

        own = beside[row.display_path.parent]
        if not fitting and len(own) == images[row.letter, row.display_path.parent] == 1:
            fitting = own

        if fitting:
            row.mask = _clearest(fitting, row, domains, root)
            if one_grid:
                expect_one_grid(row.mask, row.display_path)


def expect_one_grid(mask: Path, image: Path) -> None:
    """UserError that names both if a mask is not on the voxel grid of its image."""
    if differs := difference(mask, image):
        what = f"the mask '{mask}' and its image '{image}' are on different voxel grids: {differs}"
        remedy = "resample the mask onto the grid of its image, or leave both out"
        raise UserError(what, where="data.source.mask", remedy=remedy)


def expect_one_mask(masks: Sequence[Path], image: Path) -> None:
    """UserError that names the first two of several masks of one image, or folder."""
    if len(masks) > 1:
        what = f"'{image}' has two masks: '{masks[0]}' and '{masks[1]}'"
        remedy = "make data.source.mask more specific, for example with a glob"
        raise UserError(what, where="data.source.mask", remedy=remedy)


def _bare_name(mask: Path, name: str, domains: Sequence[str]) -> str:
    """What a mask's name shares with its image's: without the word for masks and the domains'
    names.
    """
    if GLOB.search(name):
        text = mask.name
        for literal in re.split(r"[*?]|\[[^\]]*\]", name.rpartition("/")[2]):
            if len(literal) > 1:
                text = re.sub(re.escape(literal), "", text, flags=re.IGNORECASE)
        return bare_stem(stem_of(text), domains)

    wanted = {word.lower() for word in words_of(name)}
    pieces = re.split(r"([_\-. ]+)", stem_of(mask))
    return bare_stem(
        "".join(piece for piece in pieces if not wanted & set(map(str.lower, words_of(piece)))),
        domains,
    )


def _clearest(masks: Sequence[Path], row: Row, domains: Sequence[str], root: Path) -> Path:
    """The mask whose name contains the image's domain, else the one in the nearest folder."""
    own = domains["ab".index(row.letter)] if row.letter in "ab" else ""

    def score(mask: Path) -> tuple[int, int]:
        parts = [*relative_to(mask, root).parts[:-1], stem_of(mask)]
        names = {domain for domain in domains for part in parts if domain_match(part, domain) >= 2}
        shared = sum(
            one == other for one, other in zip(mask.parts, row.display_path.parts, strict=False)
        )
        return (own in names) - bool(names - {own}), shared

    best = max(map(score, masks))
    masks = [mask for mask in masks if score(mask) == best]
    expect_one_mask(masks, row.display_path)
    return masks[0]
