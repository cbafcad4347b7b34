"""`Case`: what a model translates at once, an image or the contrasts of a patient on one grid, and what
is said of it. Files, arrays, images of libraries and the test images of a run all become cases.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from torch import Tensor

from gantk.catalog.contrasts import known_contrast
from gantk.data.preparation import Record
from gantk.errors import UserError, did_you_mean
from gantk.formats.image import Image
from gantk.inference.frame import TranslateOptions
from gantk.inference.notes import Checks, check_result
from gantk.prepare.grid import resample_onto

T = TypeVar("T")


class Case:
    """The images of one patient by contrast, in the model's order, compared with the training images
    and laid onto one grid; one image of all contrasts is that of the model's source domain.

    Attributes:
        image: what is translated.
        checks: what is said of each image, without those that are missing (NaN throughout).
        notes: what else is said; more after `translate`.

    UserError where these images cannot be translated together; `whose` they are, in its words.
    """

    def __init__(self, model: Any, images: Mapping[str, Image], to: str | None, whose: str):
        self.model = model
        self.to = to
        self.frame = model.frame(to)
        self.is_one = [*images] == [self.frame.source]
        targets = self.frame.targets
        if len(targets) == 1 and [*images] == targets and not self.is_one:
            raise UserError(
                f"the only contrast given is {targets[0]}, which is to be generated",
                where="INPUT",
                allowed=self.frame.sources,
            )
        absent = [name for name in self.frame.sources if name not in images]
        if absent and self.frame.missing == "refuse" and not self.is_one:
            raise UserError(
                f"{whose} lacks {' and '.join(absent)}",
                where="INPUT",
                remedy='add the files, or train a model with data.missing = "mask"',
            )

        self.checks = {}
        self.notes = []
        prepared = {}
        for name, image in images.items():
            # nothing that completes a patient is made of itself
            is_unused = self.frame.completes and targets == [name]
            if is_unused or np.isnan(image.pixels.max()):
                prepared[name] = replace(image, pixels=self.frame.as_in_training(image.pixels))
            else:
                contrast = "" if self.is_one else name
                prepared[name], self.checks[name] = model.check(image, to, contrast)
        self.image = next(iter(prepared.values()))
        if not self.is_one:
            self.image, resampled = stack_on_one_grid(prepared, self.frame.sources)
            for name in resampled:
                line = f"{name} is resampled onto the grid of {next(iter(images))} by the headers"
                self.notes.append(("note", line))

    @classmethod
    def of_record(cls, model: Any, record: Record, to: str | None, checks: Checks) -> Case:
        """The images of a record; adds to `checks` what is said of them."""
        source = model.frame(to).source
        images = record.file.images(source) if record.file else {source: image_of(record)}
        case = cls(model, images, to, f"'{record.key}'")
        checks[record.scan_key or record.key] = [*case.checks.values()]
        return case

    def translate(
        self, contrasts: Sequence[str], options: TranslateOptions, pixels: Tensor | None = None
    ) -> list[Image]:
        """The results, one for each of `options.tails`, with the channels of all targets, of which
        only these `contrasts` are made. `pixels`: those of an array, where gradients are to reach
        them; results then hold tensors.
        """
        if len(contrasts) < len(self.frame.targets):
            options = replace(options, contrasts=tuple(contrasts))
        made, own_scale, notes = self.model.results(self.image, self.to, options, pixels)
        values: list[Any] = [each.numpy() if pixels is None else each for each in made]
        results = [replace(self.image, pixels=each, own_scale=own_scale) for each in values]
        if self.is_one and pixels is None and self.checks:
            pipeline = self.model.pipelines[self.model.domain(self.to)]
            self.notes += check_result(self.image, results[0], pipeline, self.frame)
        self.notes += notes
        return results

    def part(self, result: Image, contrast: str) -> Image:
        """The channel of a result that shows a contrast; all where there is one contrast."""
        if len(self.frame.targets) == 1:
            return result
        return replace(result, pixels=result.pixels[[self.frame.targets.index(contrast)]])


def image_of(*records: Record) -> Image:
    """The whole image of a record: as its file holds it, or the array that its source reads; of arrays
    that are the slices of one scan, their stack.
    """
    first = records[0]
    if first.file:
        return first.file.read()
    arrays = [record.read() for record in records]
    pixels = np.stack(arrays, axis=1) if len(arrays) > 1 else arrays[0]
    return Image(pixels, path=Path(first.key), is_array=True, in_units=True)


def by_contrast(given: Mapping[str, T], contrasts: Sequence[str], where: str) -> dict[str, T]:
    """What is given for each contrast of a model, in the model's order.

    UserError where nothing is given, for a contrast that the model does not know, and for two names
    of one contrast.
    """
    if not given:
        raise UserError("no image is given", where=where, allowed=contrasts)

    known = {}
    for name, value in given.items():
        contrast = known_contrast(name, contrasts)
        if contrast is None:
            raise UserError(
                f"this model has no contrast '{name}'",
                where=where,
                allowed=contrasts,
                remedy=did_you_mean(name.upper(), contrasts),
            )
        if contrast in known:
            raise UserError(
                f"two images are given for {contrast}",
                where=where,
                allowed="one image of each contrast",
            )
        known[contrast] = value

    return in_model_order(known, contrasts)


def in_model_order(found: Mapping[str, T], contrasts: Sequence[str]) -> dict[str, T]:
    """What was found for each contrast, in the model's order."""
    return {contrast: found[contrast] for contrast in contrasts if contrast in found}


def contrasts_to_make(
    targets: Sequence[str], given: Iterable[str], to: str | None, whose: str
) -> list[str]:
    """The contrasts that a model which completes patients makes: those that are not given, or the
    `targets` that `to` names. UserError where none is missing.
    """
    given = list(given)
    if to is not None:
        if len(targets) == 1:
            return list(targets)
        return [name for name in targets if given != [name]]  # nothing is made of itself

    missing = [name for name in targets if name not in given]
    if not missing:
        raise UserError(
            f"{whose} has {', '.join(targets)}, so no contrast is missing",
            where="INPUT",
            remedy=f"add --to {targets[-1]} to make one from the others anyway",
        )
    return missing


# ---- one grid


def stack_on_one_grid(
    images: Mapping[str, Image], contrasts: Sequence[str]
) -> tuple[Image, list[str]]:
    """The images of a patient as the channels of one image, resampled by their headers onto the grid
    of the first one; a missing contrast is NaN.

    Returns the image, which has the header of the first one and all headers in `made_of`, and the
    contrasts that were resampled. UserError where an image has no position in space, or images do
    not overlap.
    """
    chosen = next(iter(images))
    reference = images[chosen]
    done = {}
    resampled = []
    for contrast, image in images.items():
        if image.channels != 1:
            raise UserError(
                f"'{image.path}' is a colour image", where="INPUT", allowed="one value per voxel"
            )
        done[contrast] = image
        if image.grid.same_as(reference.grid):
            continue
        if any(one.dims != 3 or one.affine is None for one in (image, reference)):
            sides = [" x ".join(map(str, one.pixels.shape[1:])) for one in (image, reference)]
            raise UserError(
                f"{contrast} and {chosen} have different sizes, {sides[0]} and {sides[1]}, and no"
                " position in space",
                where="INPUT",
                allowed="volumes with positions in their headers, or images of one size",
                remedy="resample all contrasts of a patient onto one grid",
            )
        placed = resample_onto(image, reference)
        if np.ptp(placed.pixels) == 0 and np.ptp(image.pixels) > 0:
            raise UserError(
                f"{contrast} and {chosen} do not overlap, by their headers",
                where="INPUT",
                allowed="images of one patient and session",
                remedy="check the files, or register them first",
            )
        resampled.append(contrast)
        done[contrast] = replace(placed, made_of=(image.header,))

    first = done[chosen]
    missing = replace(first, pixels=np.full_like(first.pixels, np.nan))
    channels = [done.get(name, missing).pixels for name in contrasts]
    present = in_model_order(done, contrasts).values()
    headers = [header for image in present for header in image.made_of or (image.header,)]
    return replace(first, pixels=np.concatenate(channels), made_of=tuple(headers)), resampled
