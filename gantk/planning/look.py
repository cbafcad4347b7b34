"""Inspects scans: the source and domains that fit them, facts of files, statistics of pixels and
the fit of pairs.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gantk.catalog.contrasts import known_contrast, usual_contrast
from gantk.catalog.layouts import layout_name
from gantk.data.check.check import Examination, contrasts_of, examine, result_of
from gantk.data.check.pairs import Fit, gray_of
from gantk.data.dataset import Study, expect_no_doubts
from gantk.data.look import background_level
from gantk.data.preparation import Record, patients_of
from gantk.data.sources.pairing import (
    complete_pairs,
    on_other_grids,
    too_many_alone,
    without_partner,
)
from gantk.data.spread import spread
from gantk.errors import UserError, did_you_mean
from gantk.method import domain_letters
from gantk.plugin.loader import registry
from gantk.prepare.module import content_of, resize
from gantk.progress import Work

A_AND_B = ["A", "B"]  # names of domains of which nothing is known
MIN_EMPTY = 0.4  # share of pixels with exactly the background's value: it is masked
MAX_PICTURES = 16  # of a domain that are measured
MAX_READ_PAIRS = 12
MAP_LEVELS = 63  # of an intensity map
# of its squared error to that of resizing; fine detail of the input adds up to 3 dB more
MIN_RATIO_OF_MAP = 1.5


@dataclass(frozen=True)
class Pixels:
    """Statistics of a domain's images; of volumes, of the planes that are trained on."""

    shape: tuple[int, ...]  # median rows and columns
    content: tuple[int, ...]  # sides of the centred box that holds all foreground
    empty: float  # smallest share of pixels that are exactly the background's value
    mirror: float  # median correlation of the content with its mirror image


@dataclass
class Scans:
    """The result of inspecting scans."""

    examination: Examination
    study: Study  # how a training would use them
    method: str = ""  # that is asked for; "": that which suits the scans
    to: str | None = None  # the domain that is asked for, the last one; None: both are
    # whether a paired and an unpaired method are asked for, which compare if both see the same images
    both_kinds: bool = False

    @property
    def domains(self) -> list[str]:
        return list(self.study.table.domains)

    @property
    def records(self) -> Sequence[Record]:
        return self.study.records

    @cached_property
    def report(self) -> dict[str, Any]:
        """The report of `gantk data check`."""
        return result_of(self.examination)

    @cached_property
    def source(self) -> dict[str, Any]:
        """The table data.source."""
        layout = layout_name(self.study.source.catalog)
        return self.study.table.source.table() | ({"layout": layout} if layout else {})

    @cached_property
    def pixels(self) -> list[Pixels]:
        """Statistics of the pixels of each domain."""
        return [
            pixels_of([record for record in self.records if record.domain == letter])
            for letter in domain_letters(tuple(self.domains))
        ]

    @property
    def fit(self) -> Fit | None:
        """How well the images of each pair fit each other; None without pairs."""
        return self.examination.fit

    @cached_property
    def alone(self) -> int:
        """How many images have no partner where others have one; 0 for a few, which a paired method
        leaves out.
        """
        if not too_many_alone(self.records):
            return 0
        return len(without_partner(self.records))

    @property
    def kinds(self) -> list[str]:
        """The usual contrast of each domain, such as t1 or ct, "" where its name states none."""
        return [usual_contrast(name) or "" for name in self.domains]

    @property
    def files(self) -> list[dict[str, Any]]:
        """The facts of the files that have a domain."""
        return [each for each in self.report["files"] if each["domains"] and "error" not in each]

    @property
    def suits_paired(self) -> bool:
        """Whether a paired method is planned, or can learn from the scans: the pairs fit and are
        complete.
        """
        if self.method:
            return registry().get("method", self.method).load().paired
        return bool(self.fit and self.fit.good and not self.alone)

    @property
    def volumes(self) -> int:
        return len({(record.domain, record.scan_key) for record in self.records if record.scan_key})

    @property
    def patients(self) -> int:
        return len(patients_of(self.records))

    @property
    def classes(self) -> list[str]:
        """The classes of the images, where folders or a table name them."""
        return sorted({record.label for record in self.records if record.label is not None})

    @cached_property
    def _some_pairs(self) -> list[list[np.ndarray]]:
        """Both images (H, W) of some pairs on one grid, known or likely ones."""
        likely: dict[str, dict[str, Record]] = defaultdict(dict)
        for record in self.records:
            if name := self.examination.proposed_pairs.get(record.id):
                likely[name][record.domain] = record
        pairs = [*complete_pairs(self.records).values(), *likely.values()]
        read = [
            [gray_of(pair[letter]) for letter in "ab"] for pair in spread(pairs, MAX_READ_PAIRS)
        ]
        return [pair for pair in read if pair[0].shape == pair[1].shape]

    @cached_property
    def _errors_of_a_map(self) -> list[float]:
        """The squared error of the best intensity map to each of both domains, of all pairs in all."""
        errors = [0.0, 0.0]
        for pair in self._some_pairs:
            for number, truth in enumerate(pair):
                level = (MAP_LEVELS * pair[1 - number]).astype(np.intp).ravel()
                means = np.bincount(level, truth.ravel()) / np.maximum(np.bincount(level), 1)
                errors[number] += float(np.square(means[level] - truth.ravel()).mean())
        return errors

    def can_beat_a_map(self, sides: Sequence[int]) -> bool:
        """Whether images of this size can be better than an intensity map in whole files: resizing true
        images there and back has clearly less of a squared error. True without pairs.
        """
        lost = [0.0, 0.0]
        for pair in self._some_pairs:
            for number, truth in enumerate(pair):
                whole = torch.from_numpy(truth)[None, None].float()
                shape = list(truth.shape)
                small = resize(whole, content_of(shape, list(sides), "pad"))
                lost[number] += float((resize(small, shape) - whole).square().mean())
        both = zip(lost, self._errors_of_a_map, strict=True)
        return all(MIN_RATIO_OF_MAP * own <= mapped for own, mapped in both)

    @property
    def is_masked(self) -> bool:
        """Whether the background of the scans, which are no pictures, has one value, as after
        skull-stripping.
        """
        return self._are_scans and min(each.empty for each in self.pixels) > MIN_EMPTY

    @property
    def are_whole(self) -> bool:
        """Whether each file is a whole scan, with a gray scale of its own: a volume, or the only
        slice of its patient and contrast.
        """
        scans = {(record.domain, record.subject) for record in self.records if record.subject}
        return bool(self.volumes) or (self._are_scans and len(scans) == len(self.records))

    @property
    def _are_scans(self) -> bool:
        """Whether the files are scans, and no pictures."""
        return bool(self.volumes) or all(file.get("spacing") for file in self.files)

    @property
    def is_stripped(self) -> bool | None:
        """Whether most volumes are skull-stripped heads; None where this is unclear of all."""
        known = [file["skull"] for file in self.files if file.get("skull") is not None]
        return 2 * sum(known) < len(known) if known else None


def domains_to(path: Path, to: str, given: Sequence[str], settings: Sequence[str]) -> list[str]:
    """Two domains of scans, of which the second is `to`: the `given` ones, else the most usual contrast
    beside it, else A and B. UserError where the scans have no such domain.
    """
    groups = [given] if given else [contrasts_of(path, settings), A_AND_B]
    for names in groups:
        target = known_contrast(to, names)
        others = [name for name in names if name != target]
        if target and others:
            return [others[0], target]
    raise UserError(
        f"these scans have no images of '{to}' beside others, of which they could be made",
        where="--to",
        allowed=groups[0] or "none",
        remedy=did_you_mean(to, groups[0]),
    )


def expect_order(seen: Scans, given: Sequence[str]) -> None:
    """UserError where a place, such as trainA, and no name says of which domain an image is, and the
    domains are not in the `given` order.
    """
    source = seen.study.table.source.options
    is_by_place = seen.study.source.nameless() or source.get("a") or source.get("b")
    if is_by_place and seen.domains != (given or A_AND_B):
        raise UserError(
            "the place of these images, not their name, says which are of the first domain",
            where="--to",
            remedy="name all: --set data.source.a=FOLDER --set data.source.b=FOLDER"
            """ --set 'data.domains=["FIRST", "SECOND"]', of which the second is made""",
        )


@Work("looking at the scans")
def look(path: Path, settings: Sequence[str]) -> Scans:
    """Find the source, domains and settings that read the scans best; UserError where no training
    could use them.
    """
    scans = _examine_scans(path, settings)
    expect_no_doubts(scans.study.source, scans.study.table)
    volumes = all(len(each["shape"]) == 3 for each in scans.files)
    if len(scans.domains) == 1 or not volumes or (scans.fit and not scans.alone):
        return scans

    # a patient's two grids may differ: the second is resampled onto the first by the headers
    if not on_other_grids(scans.records):
        return scans
    try:
        onto = _examine_scans(path, [*settings, "data.source.onto=a"])
    except UserError:  # this does not suit them
        return scans
    return onto if onto.fit and not onto.alone else scans


def _examine_scans(path: Path, settings: Sequence[str]) -> Scans:
    """What `data check` finds; UserError for a problem with which no training starts."""
    found = examine(path, None, settings)
    for each in found.problems:
        if each.kind in ("source", "unreadable", "not-finite", "leak"):
            raise UserError(each.what, where="SCANS", remedy=each.remedy)

    assert found.usage is not None  # else there is a problem of the kind "source"
    return Scans(found, found.usage)


def pixels_of(records: Sequence[Record]) -> Pixels:
    """Measure some images of a domain."""
    chosen = spread(records, MAX_PICTURES)
    images = [np.nan_to_num(record.read()).mean(axis=0) for record in chosen]
    foregrounds = [foreground_mask(image) for image in images]
    mirrored = [_mirror(image, mask) for image, mask in zip(images, foregrounds, strict=True)]
    shape = np.median([image.shape for image in images], axis=0)
    return Pixels(
        shape=tuple(map(int, shape)),
        content=tuple(max(_reach(mask, axis) for mask in foregrounds) for axis in (0, 1)),
        empty=min(float((image == background_level(image)).mean()) for image in images),
        mirror=float(np.median(mirrored)),
    )


def foreground_mask(image: np.ndarray) -> np.ndarray:
    """The foreground mask of a picture or volume."""
    air = background_level(image)
    bright = abs(float(np.percentile(image.ravel()[::16], 99.5)) - air)
    return np.abs(image - air) > 0.05 * max(bright, 1e-9)


def _lines_with_content(foreground: np.ndarray, axis: int) -> np.ndarray:
    """The rows (0) or columns (1) with more than 1 % foreground."""
    return np.flatnonzero(foreground.mean(axis=1 - axis) > 0.01)


def _reach(foreground: np.ndarray, axis: int) -> int:
    """Length of the shortest centred interval that holds all lines with content."""
    lines = _lines_with_content(foreground, axis)
    side = foreground.shape[axis]
    if not len(lines):
        return side
    return int(2 * max(side / 2 - lines[0], lines[-1] + 1 - side / 2))


def _mirror(image: np.ndarray, foreground: np.ndarray) -> float:
    """Correlation of an image's content with its mirror image."""
    columns = _lines_with_content(foreground, 1)
    content = image
    if len(columns) > 1:
        content = image[:, columns[0] : columns[-1] + 1]
    if not content.std() > 0:
        return 0.0
    return float(np.corrcoef(content.ravel(), content[:, ::-1].ravel())[0, 1])
