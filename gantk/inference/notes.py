"""What is said about the input and the result of a translation, whichever way it is asked for.

Files and folders print it; `model.translate` gives Python warnings, and the `notes` of its results.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from gantk.catalog.contrasts import names_with_contrast, says_agent, usual_contrast
from gantk.catalog.scan import is_generated
from gantk.data.check.kinds import TRAITS_OF_ONE, in_words, kind_of, outside
from gantk.data.look import MIN_PEOPLE, NO_UNITS, distance_to, is_ct_without_units, look_of
from gantk.data.masks import corner_levels
from gantk.errors import GantkWarning, count_noun, join_first
from gantk.formats.image import Image, in_channels
from gantk.inference.frame import FIT, Frame
from gantk.inference.pipeline import Pipeline
from gantk.inference.scales import value_range
from gantk.plugin.loader import load
from gantk.prepare.grid import PLANES

Note = tuple[str, str]  # "note" or "warning", and its text
TRAINED_ON = "the model was trained on this"  # the start of a warning about an image
Finding = tuple[str, bool]  # in what an image is unlike the training images, and whether far
FAR_LOOK_RATIO = 1.5  # of a look's distance to that within which 95 % of the training images are
MIN_LOOK_DISTANCE = 0.02  # training images that are alike have less
# an image is of the other domain if its look is this many times nearer to that one's training
# images. Measured: benchmarks/results/input-checks.md
OTHER_LOOK_RATIO = 1.4
ADULT_AGE = 18  # years
SQUARE_RATIO = 1.5  # of width and height: slices of a body are less long
# whether a trait that earlier models do not record is another one than most training images have
UNUSUAL: Mapping[str, Callable[[Any], bool]] = {
    "aspect ratio": lambda ratio: not 1 / SQUARE_RATIO < ratio[0] < SQUARE_RATIO,
    "age": lambda years: years[0] < ADULT_AGE,
    "body part": lambda part: part != "head",
    "field strength": lambda tesla: not 1 <= tesla[0] <= 3,
}
MIN_COLOUR = 0.15  # of the highest value: the least difference of channels that is a colour
MIN_COLOURED_SHARE = 0.001  # of the pixels: fewer are traces of a compression
MANY_COLOURED_SHARE = 0.1  # of the pixels: more are a photograph, not marks in a scan
MAX_NAMED_MISFITS = 3  # files of a sentence
COMPARED_SIDE = 48  # about how many planes of each axis are compared with their mirror image
MIN_COMPARED_SIDE = 8
# correlation of a volume with its mirror image: 10 heads of 5 sets have 0.82 to 0.99 along the axis
# from left to right, and 0.13 to 0.44 less from inferior to superior
MIN_SYMMETRY = 0.5
SYMMETRY_GAIN = 0.1
COMPARED_PIXELS = 200_000  # about how many of an image are compared with its result
# share of a result that may be darker than the target's images by more than this share of the range.
# Measured: benchmarks/results/input-checks.md
MAX_DARK_SHARE = 0.05
DARK_MARGIN = 0.05


def warn(notes: Iterable[Note]) -> tuple[str, ...]:
    """Give a Python warning for each note; returns their texts."""
    texts = [text for _, text in notes]
    for text in texts:
        warnings.warn(text, GantkWarning, stacklevel=5)
    return tuple(texts)


class InputCheck(NamedTuple):
    """What is said about an image before the work starts."""

    fits: str  # the training data: one of FITS
    notes: list[Note]
    contrast: str = ""  # its name where a patient has several
    is_of_training: bool = False  # whether the first note says that its patient was trained on
    has_header: bool = True  # which pictures and arrays lack

    @property
    def reasons(self) -> list[str]:
        """In what it does not fit, and what else is said, but that it was trained on."""
        return [line for _, line in self.notes[self.is_of_training :]]

    @property
    def doubts(self) -> list[str]:
        """Why it does not fit the training data."""
        return [line for kind, line in self.notes if kind == "warning" and line in self.reasons]

    @property
    def said(self) -> list[Note]:
        """Whether the image fits the training data, which every training image does; and the notes."""
        kind = "warning" if self.fits == "no" else "note"
        said = [*self.notes]
        unseen = "lesions are not checked"
        if self.is_of_training:
            unseen = f"it is one of them; {unseen}"
        if self.fits == "not recorded":
            unseen = f"another contrast may go unnoticed; {unseen}"
        elif self.fits != "no" and not self.has_header:
            unseen = f"no header: only gray values and look were compared; {unseen}"
        words = f"{_prefix(self.contrast)}{FIT}: {self.fits} ({unseen})"
        said.insert(self.is_of_training, (kind, words))
        return said


Checks = dict[str, list[InputCheck]]  # of the images of each input, by its name


def _prefix(contrast: str) -> str:
    return f"{contrast}: " if contrast else ""


def check_input(
    image: Image, frame: Frame, contrast: str = "", trained_on: str = ""
) -> tuple[Image, InputCheck]:
    """Compare an image with the training images of a model; returns it as in the training, and what
    is said about it. `contrast` is its name where a patient has several; `trained_on` the run whose
    training images show the same patient, or are this image.

    It does not fit where plugins or the skull raise a doubt, or where it is far outside the ranges
    of the training images; it fits partly where it is a little outside. Of a model that does not
    know the looks of its training images no other image fits better than "not recorded".
    """
    given = image
    if not contrast and image.affine is None:  # a picture in gray or colour
        image = replace(image, pixels=in_channels(image.pixels, frame.channels))
    image = replace(image, pixels=frame.as_in_training(image.pixels))
    found = [*_findings(given, image, frame, contrast)]
    doubts = [line for line, is_far in found if is_far]
    near = [line for line, is_far in found if not is_far]

    notes = []
    if trained_on:
        seen = "patient" if image.facts.get("patient") else "image"
        line = (
            f"{TRAINED_ON} {seen} (training images of '{trained_on}'), so the"
            f" result does not show how well other {seen}s are translated"
        )
        notes.append(("warning", line))
    notes += [("note", line) for line in (*image.remarks, *_changes(given, image, frame, contrast))]
    notes += [("warning", line) for line in doubts]
    notes += [("note", line) for line in near]

    fits = "partly" if near else "yes"
    if doubts:
        fits = "no"
    elif why := _why_not_recorded(frame, contrast):
        fits = "not recorded"
        notes.append(("note", why))
    notes = [(kind, _prefix(contrast) + line) for kind, line in notes]
    has_header = given.affine is not None
    return image, InputCheck(fits, notes, contrast, bool(trained_on), has_header)


def misfit_sentence(checks: Checks) -> str:
    """Which files do not fit the training data, and why; "" where all fit."""
    misfits = []
    for name, of_file in checks.items():
        if doubts := [line for check in of_file for line in check.doubts]:
            misfits.append(f"'{name}' ({'; '.join(doubts)})")
    if not misfits:
        return ""
    whole = f"{len(misfits)} of {count_noun(checks, 'file')}"
    return f"{whole} do not fit the training data: {join_first(misfits, most=MAX_NAMED_MISFITS)}"


def _changes(given: Image, image: Image, frame: Frame, contrast: str) -> list[str]:
    """What was changed in an image before it is translated, and that all its values are one."""
    lines = []
    if given.channels != image.channels:
        kinds = ("gray", "colour") if given.channels == 1 else ("colour", "gray")
        lines.append(f"the {kinds[0]} image is converted to {kinds[1]}")
    if np.ptp(given.pixels) == 0:
        line = "the image has the same value everywhere"
        lines.append(line if contrast else f"{line}, and so has its {frame.target}")
    if given.channels == image.channels and given.pixels is not image.pixels:
        lines.append(
            "the background is brighter than much of the tissue, as of z-scores; it is set to the"
            " darkest value"
        )
    return lines


def _has_look(frame: Frame, contrast: str) -> bool:
    """Whether looks are compared: they are of single contrasts."""
    return not contrast and len(frame.sources) == 1


def _why_not_recorded(frame: Frame, contrast: str) -> str:
    """Why the model does not know what its training images were like; "" where it does."""
    known = frame.values.get("source", {})
    if "traits" not in known:
        return "trained before gantk stored the looks of training images"
    if "looks" in known or not _has_look(frame, contrast):
        return ""
    if not known["traits"]:
        return "trained on images that are not files, whose looks are not stored"
    few = f"trained on fewer than {MIN_PEOPLE} people"
    return f"{few}: too few to tell whether this image looks like the training images"


def _findings(given: Image, image: Image, frame: Frame, contrast: str) -> Iterator[Finding]:
    """In what an image is unlike the training images, by plugins, its pixels, header and name, and
    whether far; `given`: before it was converted.
    """
    of_plugins = frame
    if contrast:  # the values of the training are those of all contrasts together
        of_plugins = replace(frame, source=contrast, values={})
    doubts = load().hook.gantk_image_warning(image=image, frame=of_plugins)
    yield from ((line, True) for line in doubts)

    if frame.stripped and image.dims == 3:
        yield from _not_stripped(image)
    yield from image.doubts

    if given.channels > image.channels:
        spread = np.ptp(given.pixels, axis=0)
        share = np.mean(spread > MIN_COLOUR * given.pixels.max())
        if share > MIN_COLOURED_SHARE:
            line = f"colour: {100 * share:.2g} % of the pixels have a colour, which the model does not see"
            yield line, share > MANY_COLOURED_SHARE

    yield from _outside_of_training(image, frame)
    if image.path and is_generated(image.path, image.description):
        yield "kind: its JSON file says that gantk generated it", True
    yield from _of_other_contrast(image, frame, contrast, bool(doubts))
    if image.is_array and image.dims == 3 and frame.plane == "axial" and _has_slices_last(image):
        line = (
            "the array looks like (x, y, z), as of get_fdata(), but its axes are taken as slices, rows"
            " and columns: translate the nibabel image itself"
        )
        yield line, True


def _not_stripped(image: Image) -> Iterator[Finding]:
    """Whether a volume has a skull, for a model of heads without one."""
    from gantk.data.skull import shows_skull  # other models do not need it

    seen = ""
    if corner_levels(image.pixels) is None:
        seen = "nothing is masked out of the input"
    elif shows_skull(image):
        seen = "the input shows the skull"
    if seen:
        yield f"{seen}, but this model was trained on skull-stripped heads", True


def _of_other_contrast(
    image: Image, frame: Frame, contrast: str, is_doubted: bool
) -> Iterator[Finding]:
    """What look, header and name say against the contrast that the model translates; of the look
    nothing where plugins doubt already what header or name state.
    """
    shown = contrast or frame.source
    meant = usual_contrast(shown)
    stated = meant and names_with_contrast(image.facts, image.path, meant)
    has_agent = image.facts.get("agent") or says_agent(*(stated or ()))
    if _has_look(frame, contrast):
        is_open = has_agent or (stated and is_doubted)
        # what takes up an agent may be as bright as in any contrast
        is_open = is_open or says_agent(frame.source, frame.target)
        others = None if is_open else frame.values.get("target", {}).get("looks")
        yield from _unlike_in_look(image, frame, others, bool(meant and not stated))
    is_named = image.path is not None and not image.is_array and not contrast
    if is_named and meant and not stated and not _why_not_recorded(frame, contrast):
        yield f"contrast: neither name nor header says that this is {frame.source}", False
    if meant == "t1" and has_agent:
        said = "contrast agent: header or name say one"
        yield f"{said}; the {shown} of the training may show none", False


def _outside_of_training(image: Image, frame: Frame) -> Iterator[Finding]:
    """In what an image is outside the ranges of the training images; and whether far."""
    ranges = dict(frame.values.get("source", {}).get("traits", {}))
    unseen = set()
    if frame.spacing:
        unseen.add("spacing")  # finer pixels are resampled
        if image.is_array:
            line = "an array states none, and is taken as of 1 mm: give the image with its header"
            yield f"spacing: {line}", False
    if frame.stripped:
        ranges.pop("heads", None)  # `_not_stripped` compares them
        unseen.add("field of view")  # only air is cut off
    if not ranges:
        return
    stack = PLANES[frame.plane][0] - 1 if frame.dims == 2 else None
    facts = kind_of(image, skull=len(ranges.get("heads", ())) == 1)
    yield from outside(facts, ranges, stack, unseen)
    for trait in TRAITS_OF_ONE:
        value = trait.value(facts)
        is_unusual = UNUSUAL.get(trait.name)
        if trait.name not in ranges and value is not None and is_unusual and is_unusual(value):
            said = in_words(trait, value)
            yield f"{trait.name}: {said}, and that of the training is not recorded", False


def _unlike_in_look(
    image: Image, frame: Frame, others: Sequence | None, is_unstated: bool
) -> Iterator[Finding]:
    """Whether an image looks unlike the training images, or like `others` of the other domain; and
    whether that is a doubt. Where name or header state the contrast, the other domain's look is none.
    """
    own = frame.values.get("source", {})
    is_known = own.get("looks") and own.get("look_near") is not None
    look = look_of(image.pixels) if is_known and np.ptp(image.pixels) > 0 else []
    if not look:
        return
    distance = distance_to(look, own["looks"])
    if others and distance > OTHER_LOOK_RATIO * distance_to(look, others):
        line = f"the input looks like {frame.target}, but it is translated as {frame.source}"
        if is_unstated:
            yield line, True
            return
        yield f"{line}, although name or header state a contrast", False
    ratio = distance / max(own["look_near"], MIN_LOOK_DISTANCE)
    if ratio > 1:
        shown = math.ceil(100 * ratio) / 100  # above 1
        line = (
            f"look: {shown:.2f} times as far from the training images as these are from each other"
        )
        yield line, ratio > FAR_LOOK_RATIO


def _has_slices_last(image: Image) -> bool:
    """Whether an array seems to have the axes (x, y, z), not (planes, rows, columns): its last axis is
    at most half as long as the others, or it is more like its mirror image along the first axis
    than along the last, as a head is from left to right.
    """
    volume = image.pixels[0]
    steps = (max(1, side // COMPARED_SIDE) for side in volume.shape)
    some = volume[tuple(slice(None, None, step) for step in steps)].astype(np.float64)
    if 2 * volume.shape[2] <= min(volume.shape[:2]):
        return True
    if min(some.shape) < MIN_COMPARED_SIDE or np.ptp(some) == 0:
        return False
    first, last = (np.corrcoef(some.ravel(), np.flip(some, n).ravel())[0, 1] for n in (0, 2))
    return bool(first > max(MIN_SYMMETRY, last + SYMMETRY_GAIN))


def check_result(image: Image, made: Image, pipeline: Pipeline, frame: Frame) -> list[Note]:
    """The notes and warnings about the translation of an image; some pixels of both are compared."""
    notes = []
    if is_ct_without_units(frame.target, frame.values.get("target", {})):
        notes.append(("warning", f"{frame.target}: {NO_UNITS}"))
    traits = frame.values.get("source", {}).get("traits", {})
    of_slices = "aspect ratio" in traits or len(traits.get("spacing", [()])[0]) == 2
    as_in_training = of_slices and pipeline.source.per != "set"
    has_own_scale = pipeline.own_scale(image.pixels) is not pipeline.source
    if image.dims == 2 and has_own_scale and not as_in_training:
        line = (
            "one slice alone gets its own gray scale; translate the whole volume for a common one"
        )
        notes.append(("note", line))

    step = max(1, round((image.pixels[0].size / COMPARED_PIXELS) ** (1 / image.dims)))
    some = (slice(None), *[slice(None, None, step)] * image.dims)
    given = image.pixels[some]
    shown = made.pixels[some]
    if made.own_scale:
        given_in_units, made_in_units = pipeline.in_training_units(image)
        given = given_in_units(given)
        shown = made_in_units(shown)
    lines = load().hook.gantk_translation_warning(given=given, made=shown, frame=frame)
    black, white, _ = value_range(pipeline.target, None)
    low, _, _ = value_range(pipeline.target, frame.values.get("target"))
    share = np.mean(shown < min(black, low) - DARK_MARGIN * (white - black))
    if share > MAX_DARK_SHARE:
        lines.append(
            f"{100 * share:.0f} % of the result is darker than any {frame.target} of the training, so"
            " the model may not know such images: structures in air, or dark spots, may be invented"
        )
    return notes + [("warning", line) for line in lines]
