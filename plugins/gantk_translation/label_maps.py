"""Label maps: maps their classes to a network's range, and makes new label maps with lesions at
other places.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, ClassVar

import numpy as np
from pydantic import Field

from gantk.data.intensity import Linear, option_fields
from gantk.errors import UserError
from gantk.plugin.spec import Part

EXACT_AUGMENTS = (
    "hflip",
    "vflip",
    "rot90",
)  # augmentations that move pixels without mixing their classes
# share of the voxels around lesions: lesions grow in a class that holds more than this
MIN_HOST_SHARE = 0.1


@option_fields
class LabelMap(Linear, name="label_map"):
    """Spreads the classes of a label map, 0 to `classes` - 1, evenly over the networks' range. It
    resizes by nearest voxel.

    Any other value is an error: an unknown class, or a value between two classes from resampling.
    """

    # number of classes with the background; as in method.classes
    classes: Annotated[int, Field(ge=2, le=256)] = 5
    per: ClassVar[str] = "file"  # each file's values are checked; the mapping is the same for all
    nearest: ClassVar[bool] = True

    def __post_init__(self):
        super().__post_init__()
        # threshold of the background: half a class
        self.fitted = [0.0, self.classes - 1.0, 0.5 / (self.classes - 1)]

    def fit(self, images: Sequence[np.ndarray]) -> None:
        for image in images:
            self.of(image)

    def of(self, pixels: np.ndarray) -> LabelMap:
        """Return this mapping; UserError where the pixels are not a label map of these classes."""
        known = (pixels >= 0) & (pixels < self.classes) & (pixels == np.rint(pixels))
        if not known.all():
            values = ", ".join(f"{value:g}" for value in np.unique(pixels[~known])[:4])
            raise UserError(
                f"a label map contains the values {values}",
                where="data.intensity.a",
                allowed=f"whole numbers from 0 to {self.classes - 1}",
                remedy="set method.classes and data.intensity.a.classes to the number of classes;"
                " values between classes come from resampling: resample maps with nearest-neighbour"
                " interpolation",
            )

        return self


def expect_exact(augment: Sequence[Part]) -> None:
    """Raise UserError if an augmentation would change or mix the values of label maps."""
    for part in augment:
        if part.name not in EXACT_AUGMENTS and not part.options.get("nearest"):
            what = (
                f"the augmentation '{part.name}' changes the values of label maps, but these are"
                " classes"
            )
            raise UserError(
                what, where="data.augment", allowed=[*EXACT_AUGMENTS, "affine with nearest = true"]
            )


def placed_anew(
    maps: Sequence[np.ndarray], lesion: int, count: int, rng: np.random.Generator
) -> list[np.ndarray]:
    """Make `count` new label maps (*size) of whole numbers from those given: one's anatomy,
    another's lesions.

    Each starts from a random map: its lesion is filled with the nearest other class, and the map is
    mirrored along the last axis at random, turned in the plane of the last two axes by up to 10
    degrees and scaled by up to 10 %. Each lesion of a second random map is turned by any angle,
    mirrored at random, scaled by up to 40 % and put at a random place in the classes that lesions
    grow in; it covers only these. The share of maps with a lesion stays the same.
    """
    from scipy.ndimage import binary_dilation, distance_transform_edt, find_objects, label

    sick = [each for each in maps if (each == lesion).any()]
    new = []
    if not sick:
        what = (
            f"none of the {len(maps)} label maps has the lesion class {lesion}, so new maps cannot"
            " get lesions"
        )
        raise UserError(what, allowed=sorted({f"{x}" for each in maps for x in np.unique(each)}))

    around = np.concatenate([one[binary_dilation(one == lesion) & (one != lesion)] for one in sick])
    host = [each for each in range(1, around.max() + 1) if (around == each).mean() > MIN_HOST_SHARE]
    for _ in range(count):
        old = maps[rng.integers(len(maps))]
        nearest = distance_transform_edt(old == lesion, return_distances=False, return_indices=True)
        one = move_randomly(old[tuple(nearest)], rng, 10.0, 0.1)
        parts = label(sick[rng.integers(len(sick))] == lesion)[0]
        tissue = np.isin(one, host)
        for number, box in enumerate(
            find_objects(parts) if rng.random() < len(sick) / len(maps) else (), 1
        ):
            # so that turning and scaling crop nothing
            shape = np.pad(parts[box] == number, max(parts[box].shape))
            shape = np.argwhere(move_randomly(shape, rng, 180.0, 0.4))
            places = np.argwhere(tissue)
            if len(shape) and len(places):
                at = np.rint(shape - shape.mean(0) + places[rng.integers(len(places))]).astype(int)
                at = at[((at >= 0) & (at < one.shape)).all(1)]
                one[tuple(at[tissue[tuple(at.T)]].T)] = lesion

        new.append(one)

    return new


def move_randomly(
    image: np.ndarray, rng: np.random.Generator, degrees: float, scale: float
) -> np.ndarray:
    """Return a map (*size) mirrored at random along its last axis, turned by up to `degrees`,
    scaled by up to `scale`.

    It is turned about its middle in the plane of the last two axes. Each pixel takes the value of
    the nearest one.
    """
    from scipy.ndimage import affine_transform

    turn = np.deg2rad(rng.uniform(-degrees, degrees))
    line = np.eye(image.ndim)
    line[-2:, -2:] = [[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]]
    line = (
        line
        / rng.uniform(1 - scale, 1 + scale)
        * np.array([*[1] * (image.ndim - 1), rng.choice([-1, 1])])
    )
    middle = (np.array(image.shape) - 1) / 2
    return affine_transform(image, line, middle - line @ middle, order=0, mode="nearest")
