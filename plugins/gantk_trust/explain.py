"""Attributes a region of a translation to the pixels of its input."""

from __future__ import annotations

import re
from dataclasses import dataclass
from io import BytesIO
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from scipy.ndimage import gaussian_filter
from torch import Tensor

from gantk.errors import UserError, importing
from gantk.files import expect_name, expect_replaceable, make_folder, write_output
from gantk.formats.files import read
from gantk.inference.frame import TranslateOptions
from gantk.prepare.module import neighbour_places
from gantk.terminal import Say

if TYPE_CHECKING:
    from matplotlib.figure import Figure

INTEGRAL_STEPS = 32  # steps of the integral from the blurred image to the image
BLUR = 1 / 10  # standard deviation of the blur, as a share of a side
SATURATION_PERCENTILE = 99.5  # of the map's magnitudes; its colours are saturated above


@dataclass(frozen=True)
class Explanation:
    """The result of `explain`, at the size of the networks' input."""

    # (H, W): above 0 where a pixel raised the region's mean, below 0 where it lowered it
    map: np.ndarray
    difference: float  # the region's mean minus that for the blurred input, near the map's sum
    picture: Figure  # input, translation with the region, map


def explain(
    run: Any,
    image: str | Path,
    out: str | Path | None = None,
    *,
    to: str | None = None,
    label: str | None = None,
    region: str = "",
    slice: int | None = None,
    overwrite: bool = False,
    device: str | None = None,
    say: Say = print,
) -> Explanation:
    """Compute how much each pixel of an image contributes to a region of its translation.

    The gradient of the region's mean is integrated from the blurred image to the image
    (Sundararajan et al. 2017, eq. 1), by captum. The baseline is blurred and not black, because
    instance norms scale even the faintest image to full contrast.

    Args:
        run: a run folder, a checkpoint, or the result of `gantk.load`.
        image: the file to translate.
        out: the picture to write, OUT.png. None writes nothing.
        to: the target domain, by name.
        label: the class of the image, for a run that was trained with classes.
        region: columns and rows as shown, "x0:x1,y0:y1". Default: the whole image.
        slice: for a volume, the slice along the run's plane, from 0. Default: the middle one.
        overwrite: whether to replace a file that gantk did not write, or that was changed since.
        device: as in `gantk.run`.
        say: called with each line of output.

    Raises:
        UserError: the run makes no translations of slices or has no gradients, or slice or region
            lie outside the image.
    """
    if out is not None:
        named = expect_name(out, "OUT")
        out = named.with_name(f"{named.name.removesuffix('.png')}.png")
        expect_replaceable([out], overwrite, "OUT")
    with importing("`gantk explain`", "explain"):
        from captum.attr import IntegratedGradients

    from gantk import load

    model = load(run, device=device) if isinstance(run, (str, PathLike)) else run
    if model.run is None:
        raise UserError(
            "an exported model or an ensemble has no gradients to explain",
            where="RUN",
            remedy="name one run folder",
        )

    letter = model.domain(to)
    frame = model.frames[letter]
    pipeline = model.pipelines[letter]
    given = read(Path(image))
    pipeline.check_channels(given, "IMAGE")
    if frame.dims == 3:
        raise UserError(
            "a network of volumes is not explained", where="RUN", allowed="networks of slices"
        )
    stack = pipeline.stack_of(given)
    number = len(stack) // 2 if slice is None else slice
    if not 0 <= number < len(stack):
        raise UserError(
            f"the image has no slice {number}", where="--slice", allowed=f"0 to {len(stack) - 1}"
        )
    places = neighbour_places(torch.tensor([number]), frame.neighbours, len(stack))[0]
    native = torch.from_numpy(np.concatenate(stack[places.tolist()]))[None]
    prepare = pipeline.preparation(pipeline.own_scale(given.pixels))
    seen = prepare(native).to(model.runtime.device)
    # how much of each pixel of the network's input is of the region
    inside = prepare.to_size(_region(region, *native.shape[2:]), torch.zeros(1, 1))[0, 0].to(seen)
    network = model.network_of(letter, TranslateOptions(label=label))

    def region_mean(images: Tensor) -> Tensor:
        made = prepare.middle(network(images)).mean(1)
        return (made * inside).sum((1, 2)) / inside.sum()

    spread = [0, 0, *(side * BLUR for side in seen.shape[2:])]
    blurred = torch.from_numpy(gaussian_filter(seen.cpu().numpy(), spread, mode="nearest")).to(seen)
    attributed = IntegratedGradients(region_mean).attribute(
        seen, baselines=blurred, n_steps=INTEGRAL_STEPS, internal_batch_size=frame.batch
    )
    found = prepare.middle(attributed.detach())[0].sum(0).cpu().numpy()
    with torch.no_grad():
        difference = float(region_mean(seen) - region_mean(blurred))
        made = network(seen)
    shown = [prepare.middle(each)[0].mean(0).cpu().numpy() for each in (seen, made)]
    picture = _draw(*shown, found, inside.cpu().numpy(), frame.range)
    say(f"explains {difference:+.3g}, the change of the region's mean from the blurred input")
    if out is not None:
        make_folder(Path(out).parent)
        png = BytesIO()
        picture.savefig(png)
        write_output(Path(out), png.getvalue())
        say(f"wrote    {out}")
    return Explanation(found, difference, picture)


def _region(text: str, rows: int, columns: int) -> Tensor:
    """An image (1, 1, H, W) that is 1 in the ranges of `text`, columns first; everywhere without."""
    text = text or f"0:{columns},0:{rows}"
    found = re.fullmatch(r"(\d+):(\d+),(\d+):(\d+)", text)
    left, right, top, bottom = map(int, found.groups()) if found else (0, 0, 0, 0)
    if not (left < right <= columns and top < bottom <= rows):
        raise UserError(
            f"'{text}' is not a valid region of this image",
            where="--region",
            allowed=f"columns,rows within 0:{columns},0:{rows}",
        )

    inside = torch.zeros(1, 1, rows, columns)
    inside[:, :, top:bottom, left:right] = 1
    return inside


def _draw(
    seen: np.ndarray,
    made: np.ndarray,
    found: np.ndarray,
    inside: np.ndarray,
    ends: tuple[float, float],
) -> Figure:
    """Input, translation with the region's outline, and the map."""
    from matplotlib.figure import Figure

    figure = Figure((12, 4), layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    left.imshow(seen, "gray", vmin=ends[0], vmax=ends[1])
    middle.imshow(made, "gray", vmin=ends[0], vmax=ends[1])
    middle.contour(inside, [inside.max() / 2], colors="gold")
    top = np.percentile(np.abs(found), SATURATION_PERCENTILE) or 1.0
    right.imshow(found, "bwr", vmin=-top, vmax=top)
    for axes in figure.axes:
        axes.axis("off")
    return figure
