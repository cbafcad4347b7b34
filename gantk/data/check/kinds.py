"""The kind of an image: head or brain, plane, spacing, field of view; whether two images differ in
it, and the ranges of a model's training images.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from gantk.data.look import Plane, clipped_share, planes_of, surroundings_of
from gantk.data.skull import shows_skull
from gantk.formats.image import Image

Facts = Mapping[str, Any]

# plane of slices along the z, y or x axis of an upright volume
AXES = ("axial", "coronal", "sagittal")
# a volume was acquired in slices if their distance exceeds the pixel size by this factor
THICK = 1.5
CT_BELOW = -500  # Hounsfield units: only CT has lower values, and its bone is bright
HEADS: Mapping[bool | None, str] = {
    True: "whole heads",
    False: "skull-stripped heads",
}  # by the fact `skull`
# measured, see `benchmarks/results/input-checks.md`
MAX_DARK = 0.2  # of the range: the brightness around a head is below it
MAX_CLIPPED_SHARE = 0.005  # of the tissue: as many pixels may have the highest value
NEAR_RATIO = 1.1  # by which an image may be outside the range of the training images


@dataclass(frozen=True)
class Trait:
    """What may differ between two groups of images."""

    name: str
    value: Callable[[Facts], Any]  # a word or numbers of an image's facts; None: unknown
    max_ratio: float  # of medians, for numbers; inf where another word is never far
    text: str  # format of the values


def _aspect_ratio(facts: Facts) -> list[float] | None:
    """Width to height of a picture; that of a scan is in its field of view."""
    if facts["spacing"] is not None or len(facts["shape"]) != 2:
        return None
    height, width = facts["shape"]
    return [width / height]


def _field_of_view(facts: Facts) -> list[float] | None:
    if facts["spacing"] is None:
        return None
    return [side * step for side, step in zip(facts["shape"], facts["spacing"], strict=True)]


SKULL = Trait("heads", lambda facts: HEADS.get(facts.get("skull")), 1, "{}")
PLANE = Trait("plane", lambda facts: None if facts["plane"] == "any" else facts["plane"], 1, "{}")
SPACING = Trait("spacing", lambda facts: facts["spacing"], 1.5, "{:.3g} mm")
FIELD_OF_VIEW = Trait("field of view", _field_of_view, 1.4, "{:.0f} mm")
TRAITS = (
    SKULL,
    PLANE,
    SPACING,
    FIELD_OF_VIEW,
    # measured: 1.0 to 1.1 between T1 and T2, or CT and MR, of one kind; 2.2 of heads and brains
    Trait("foreground", lambda facts: [100 * facts["content"]], 1.5, "{:.0f} %"),
)
# Of one image the foreground also varies with the anatomy that it shows. A model of pixels of 1 mm
# translates templates of 2 mm; these are blurred, and look so.
TRAITS_OF_ONE = (
    SKULL,
    PLANE,
    replace(SPACING, max_ratio=2.05),
    FIELD_OF_VIEW,
    # twice as large where two pictures are side by side in one file
    Trait("aspect ratio", _aspect_ratio, 1.5, "{:.2g} : 1"),
    # 0 is what anonymized headers say
    Trait(
        "age",
        lambda facts: [facts["age"]] if facts.get("age") else None,
        1.5,
        "{:.2g} years",
    ),
    Trait("background", lambda facts: facts.get("background"), 1, "{}"),
    Trait("brightest values", lambda facts: facts.get("brightest"), np.inf, "{}"),
    Trait("body part", lambda facts: facts.get("body_part"), 1, "{}"),
    Trait(
        "field strength",
        lambda facts: [facts["field_strength"]] if facts.get("field_strength") else None,
        3,
        "{:.2g} T",
    ),
)
OF_HEADER = ("age", "body_part", "field_strength")  # facts that only a header says


def kind_of(image: Image, skull: bool = True, planes: Sequence[Plane] = ()) -> dict[str, Any]:
    """Of the facts of `inspect` those that say what kind of image it is: `shape`, `spacing`,
    `plane`, `oriented`, those OF_HEADER if the header says them, whether the `background` is dark
    and the `brightest` values are clipped, and, of a volume, `skull`, which takes the longest.
    """
    spacing = None if image.affine is None else [round_digits(step) for step in image.spacing]
    plane = plane_of(image)
    surroundings = surroundings_of(planes or planes_of(image.pixels))
    facts = {
        "shape": list(image.pixels.shape[1:]),
        "spacing": spacing,
        "plane": plane,
        "oriented": image.states_orientation and plane != "sagittal",
        "background": "bright" if surroundings > MAX_DARK else "dark",
    }
    if np.ptp(image.pixels) > 0:  # of a blank image all pixels have the highest value
        is_clipped = clipped_share(image.pixels) > MAX_CLIPPED_SHARE
        facts["brightest"] = "clipped" if is_clipped else "not clipped"
    said = image.facts
    facts |= {name: said[name] for name in OF_HEADER if name in said}
    if image.dims == 3 and skull:
        ct = is_ct(image.facts | {"min": image.pixels.min()})
        facts["skull"] = None if ct else shows_skull(image)
    return facts


def is_ct(facts: Facts) -> bool:
    """Whether an image's header or its lowest value says that it is CT."""
    return bool(facts.get("modality") == "CT" or facts["min"] < CT_BELOW)


def plane_of(image: Image) -> str | None:
    """`axial`, `coronal` or `sagittal` for a slice or a volume of thick slices; `any` for nearly
    cubic voxels.

    None where the file does not state its orientation.
    """
    if image.affine is None:
        return None

    if image.dims == 3:
        across = int(np.argmax(image.spacing))
        others = max(step for axis, step in enumerate(image.spacing) if axis != across)
        return AXES[across] if image.spacing[across] > THICK * others else "any"

    thin = [axis for axis, side in enumerate(image.file_shape) if side == 1]
    direction = np.abs(image.affine[:3, thin[0]]) if len(thin) == 1 else np.zeros(3)
    return AXES[::-1][int(np.argmax(direction))] if direction.any() else None


def range_width(facts: Facts) -> float:
    """The width of an image's intensity range, from the 1st to the 99th percentile."""
    low, high = facts["range"]
    return max(0.0, high - low)


def differ_in_kind(one: Facts, other: Facts, spacing_is_set: bool) -> bool:
    """Whether two images differ in a trait that both have."""
    traits = [trait for trait in TRAITS if trait is not SPACING or not spacing_is_set]
    return any(is_far for _, is_far in outside(other, ranges_of([one], traits), traits=traits))


def ranges_of(
    group: Sequence[Facts], traits: Sequence[Trait] = TRAITS_OF_ONE
) -> dict[str, list[Any]]:
    """What a model keeps of the images that it was trained on, as JSON: by the name of a trait the
    words, or the smallest and the largest numbers, of those whose value is known. Of numbers those
    of the usual length count.
    """
    ranges = {}
    for trait in traits:
        values = [value for value in map(trait.value, group) if value is not None]
        if values and isinstance(values[0], str):
            ranges[trait.name] = sorted(set(values))
        elif values:
            length = Counter(map(len, values)).most_common(1)[0][0]
            usual = [value for value in values if len(value) == length]
            ends = np.min(usual, axis=0), np.max(usual, axis=0)
            ranges[trait.name] = [[float(f"{each:.4g}") for each in end] for end in ends]
    return ranges


def outside(
    facts: Facts,
    ranges: Mapping[str, Sequence[Any]],
    stack: int | None = None,
    unseen: Collection[str] = (),
    traits: Sequence[Trait] = TRAITS_OF_ONE,
) -> list[tuple[str, bool]]:
    """In which traits an image is outside the `ranges` of a model's training images, or the limits
    that its makers state, in words; and whether by more than its trait allows.

    `stack` is the axis of the slices of a 2-D model, along which it sees neither distances nor sizes:
    what differs there is never far. Nor is a smaller value of the traits `unseen`, which does not
    change what the network sees.
    """
    found = []
    for trait in traits:
        value = trait.value(facts)
        known = ranges.get(trait.name)
        if value is None or not known or isinstance(value, str) != isinstance(known[0], str):
            continue
        if isinstance(value, str):
            is_outside = value not in known
            is_far = trait.max_ratio < np.inf
            span = " or ".join(known)
        elif len(value) == len(known[0]):
            low, high, numbers = np.maximum([*known, value], 1e-6)
            larger = numbers / high
            ratios = np.maximum(low / numbers, larger)
            is_outside = ratios.max() > NEAR_RATIO
            seen = [axis for axis in range(len(value)) if len(value) < 3 or axis != stack]
            far_ratios = larger if trait.name in unseen else ratios
            is_far = bool(far_ratios[seen].max() > trait.max_ratio)
            span = " to ".join(dict.fromkeys(in_words(trait, end) for end in known))
        else:
            continue
        if is_outside:
            found.append(
                (f"{trait.name}: {in_words(trait, value)}, this model is for {span}", is_far)
            )
    return found


def in_words(trait: Trait, value: Any) -> str:
    if isinstance(value, str):
        return value
    number, _, unit = trait.text.partition(" ")
    return f"{' x '.join(map(number.format, value))} {unit}".rstrip()


def round_digits(value: float, digits: int = 6) -> float:
    """Round to `digits` significant digits, which are the same on every machine."""
    return float(f"{float(value):.{digits}g}")
