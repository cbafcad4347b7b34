"""Converts a file to the networks' input, finds the region to explain, and maps results back to the
file's grid.
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gantk.errors import UserError
from gantk.formats.files import read
from gantk.formats.image import Image
from gantk.prepare.module import neighbour_places


class View:
    """One image as input of a direction's networks.

    `seen` is (C, *size) in network intensities, neighbouring slices as channels; `inside` (*size)
    bool, the region. UserError where slice, mask or region do not fit, and where the image is
    larger than the networks were trained on.
    """

    def __init__(
        self,
        model: Any,
        letter: str,
        given: Image,
        number: int | None,
        mask: str | Path | None,
        region: str,
    ):
        pipeline = model.pipelines[letter]
        pipeline.check_channels(given, "IMAGE")
        self.frame = pipeline.frame
        self.given = given
        if self.frame.dims > given.dims:
            raise UserError(
                f"'{given.path}' is a picture, but this model translates volumes", where="IMAGE"
            )

        self.grid, self.stack = pipeline.stack_of(given)
        wanted = self._mask(mask)
        self.by_slice = self.frame.dims < given.dims
        if number is not None and not self.by_slice:
            raise UserError(
                f"'{given.path}' has no slices to choose from",
                where="--slice",
                remedy="leave --slice out",
            )

        self.places = [0] * (2 * self.frame.neighbours + 1)
        if self.by_slice:
            at = self._slice(number, wanted)
            places = neighbour_places(torch.tensor([at]), self.frame.neighbours, len(self.stack))
            self.places = places[0].tolist()
            wanted = None if wanted is None else wanted[at]

        native = np.concatenate(self.stack[self.places])
        self.sides = list(native.shape[1:])
        self.prepare = pipeline.preparation(pipeline.own_scale(given.pixels))
        seen = self.prepare(torch.from_numpy(native)[None])
        trained = tuple(model.method.geometry.size)
        if tuple(seen.shape[2:]) != trained:
            sizes = [" x ".join(map(str, each)) for each in (seen.shape[2:], trained)]
            what = (
                f"this run translates images of {sizes[0]} in tiles of {sizes[1]}, and `gantk"
                " explain` cannot combine tiles"
            )
            raise UserError(
                what, where="IMAGE", remedy=f"crop the image to {sizes[1]} around the region"
            )

        self.seen = seen[0].numpy()
        self.region = self._region(region, wanted, tuple(self.sides))
        inside = torch.from_numpy(self.region[None, None].astype(np.float32))
        self.inside = self.prepare.to_size(inside, torch.zeros(1, 1))[0, 0] > 0.5
        if not self.inside.any():
            raise UserError(
                "the region is smaller than a pixel of the network's input",
                where="--region, --mask",
            )

    def on_file(self, found: Tensor) -> Image:
        """A map (C, *size) as one channel on the file's grid; neighbours' channels at their slices,
        0 elsewhere.
        """
        parts = found.unflatten(0, (len(self.places), -1)).sum(1, keepdim=True)
        parts = self.prepare.enlarge(parts, self.sides)
        whole = np.zeros((len(self.stack), 1, *self.stack.shape[2:]), np.float32)
        for place, part in zip(self.places, parts, strict=True):
            whole[place] += part.numpy()

        pixels = np.moveaxis(whole, 0, 1) if self.by_slice else whole[0]
        pixels = self.grid.inverse(pixels, self.given)
        return replace(self.given, pixels=np.ascontiguousarray(pixels, np.float32), dtype=None)

    def display_planes(self, seen: Tensor, made: Tensor, found: Tensor) -> list[np.ndarray]:
        """Input, translation, map and region as (H, W) in the file's size; for volumes the plane
        with most of the map.

        Colours and contrasts are averaged, those of the map summed.
        """
        gray_input = self.prepare.middle(seen[None])[0].mean(0, keepdim=True)
        gray_output = made.mean(0, keepdim=True)
        whole_map = self.prepare.middle(found[None])[0].sum(0, keepdim=True)
        planes = []
        for image in (gray_input, gray_output, whole_map):
            planes.append(self.prepare.enlarge(image[None], self.sides)[0, 0].numpy())
        planes.append(self.region)
        if self.frame.dims == 3:
            best = int(np.abs(planes[2]).sum(axis=(1, 2)).argmax())
            planes = [each[best] for each in planes]

        return planes

    def _mask(self, path: str | Path | None) -> np.ndarray | None:
        """The mask (above 0), resampled like the networks' input; UserError where it is not on the
        image's grid.
        """
        if path is None:
            return None

        found = read(Path(path))
        if not found.grid.same_as(self.given.grid):
            sides = [" x ".join(map(str, each.pixels.shape[1:])) for each in (found, self.given)]
            what = (
                f"the mask does not fit the image: their sizes are {sides[0]} and {sides[1]}, or"
                " their positions differ"
            )
            raise UserError(what, where="--mask", remedy="use a mask on the image's grid")

        above = (found.pixels.max(axis=0, keepdims=True) > 0).astype(np.float32)
        if not above.any():
            raise UserError("the mask has no value above 0", where="--mask")

        return self.grid.forward(replace(found, pixels=above)).pixels[0] > 0.5

    def _slice(self, number: int | None, wanted: np.ndarray | None) -> int:
        """The given slice, else the one with most of the mask, else the middle one; UserError
        outside the volume.
        """
        count = len(self.stack)
        if number is None:
            return count // 2 if wanted is None else int(wanted.sum(axis=(1, 2)).argmax())

        if not 0 <= number < count:
            raise UserError(
                f"the volume has no slice {number}", where="--slice", allowed=f"0 to {count - 1}"
            )

        return number

    def _region(self, text: str, wanted: np.ndarray | None, sides: tuple[int, ...]) -> np.ndarray:
        """The region as bool in native pixels: the mask, the ranges in `text`, or everything."""
        if wanted is not None and text:
            raise UserError(
                "--region and --mask cannot be combined",
                where="--region, --mask",
                remedy="use one of them",
            )

        if wanted is not None:
            if not wanted.any():
                raise UserError("the mask is empty in this slice", where="--mask, --slice")
            return wanted

        inside = np.zeros(sides, bool)
        if text:
            parts = [re.fullmatch(r"\s*(\d+):(\d+)\s*", part) for part in text.split(",")]
        else:
            parts = []

        ends = [tuple(map(int, part.groups())) if part else (0, 0) for part in parts]
        fits = len(ends) in (2, len(sides)) if text else True
        if not fits or any(
            not low < high <= side for (low, high), side in zip(ends, sides[::-1], strict=False)
        ):
            allowed = "columns,rows within " + ",".join(f"0:{side}" for side in sides[::-1])
            raise UserError(
                f"'{text}' is not a valid region of this image", where="--region", allowed=allowed
            )

        inside[(..., *(np.s_[low:high] for low, high in reversed(ends)))] = True
        return inside
