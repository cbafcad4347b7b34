"""Attributes a region of a translation to the pixels of its input."""

from __future__ import annotations

import re
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from io import BytesIO
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image as Picture
from scipy.ndimage import binary_erosion, gaussian_filter
from scipy.stats import spearmanr
from torch import Tensor

from gantk.errors import UserError, importing
from gantk.files import expect_name, expect_replaceable, make_folder, write_output
from gantk.formats.files import read
from gantk.prepare.module import neighbour_places

INTEGRAL_STEPS = 32  # steps of the integral from the blurred image to the image
BLUR = 1 / 10  # standard deviation of the blur, as a share of a side
ALIKE = 0.5  # rank correlation with the map of random weights above which a warning is printed
SATURATION_PERCENTILE = 99.5  # of the map's magnitudes; its colours are saturated above
RED = np.array([1.0, 0.15, 0.1])
BLUE = np.array([0.1, 0.35, 1.0])
YELLOW = np.array([1.0, 0.8, 0.0])


@dataclass(frozen=True)
class Explanation:
    """The result of `explain`, at the size of the networks' input."""

    # (*size): above 0 where a pixel raised the region's mean, below 0 where it lowered it
    map: np.ndarray
    difference: float  # the region's mean minus that for the blurred input, near the map's sum
    random_correlation: float  # Spearman's, with the map of random weights
    picture: np.ndarray  # uint8 (H, 3 W, 3): input, translation with the region, map
    path: Path | None = None  # of the written picture


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
    say: Callable[[str], None] = print,
) -> Explanation:
    """Compute how much each pixel of an image contributes to a region of its translation.

    The gradient of the region's mean is integrated from the blurred image to the image
    (Sundararajan et al. 2017, eq. 1), by captum. The baseline is blurred and not black, because
    instance norms scale even the faintest image to full contrast. The same map of random weights
    shows what is not learnt: a map that hardly differs shows edges (Adebayo et al. 2018).

    Args:
        run: a run folder, a checkpoint, or the result of `gantk.load`.
        image: the file to translate.
        out: the picture to write, OUT.png. None writes nothing.
        to: the target domain, by name.
        label: the class of the image, for a run that was trained with classes.
        region: columns and rows as shown, "x0:x1,y0:y1"; of 3-D networks also planes, ",z0:z1".
            Default: the whole image.
        slice: for a volume and 2-D networks, the slice along the run's plane, from 0. Default: the
            middle one.
        overwrite: whether to replace a file that gantk did not write, or that was changed since.
        device: as in `gantk.run`.
        say: called with each line of output.

    Raises:
        UserError: the run makes no translations or has no gradients, or slice or region lie outside
            the image.
    """
    path = _picture_path(out, overwrite)
    with importing("`gantk explain`", "explain"):
        from captum.attr import IntegratedGradients

    model, letter = _model(run, to, device, say)
    frame = model.frames[letter]
    pipeline = model.pipelines[letter]
    given = read(Path(image))
    pipeline.check_channels(given, "IMAGE")
    native = _planes(pipeline.stack_of(given)[1], slice, frame.neighbours)
    prepare = pipeline.preparation(pipeline.own_scale(given.pixels))
    seen = prepare(native).to(model.runtime.device)
    blurred = torch.from_numpy(_blur(seen.cpu().numpy())).to(seen)
    inside = torch.from_numpy(_region(region, tuple(native.shape[2:]))[None, None])
    inside = prepare.to_size(inside.float(), torch.zeros(1, 1))[0, 0] > 0.5
    if not inside.any():
        what = "the region is smaller than a pixel of the network's input"
        raise UserError(what, where="--region")

    network = model.network(frame.source, frame.target, label=label).to(seen.device)

    def attribution(network: Callable[[Tensor], Tensor]) -> tuple[np.ndarray, float]:
        """The map (*size) of a network, and what it explains."""

        def region_mean(images: Tensor) -> Tensor:
            return prepare.middle(network(images))[:, :, inside].flatten(1).mean(1)

        gradients = IntegratedGradients(region_mean)
        options = {"n_steps": INTEGRAL_STEPS, "internal_batch_size": frame.batch}
        found = gradients.attribute(seen, baselines=blurred, **options).detach()
        with torch.no_grad():
            difference = float(region_mean(seen) - region_mean(blurred))
        return prepare.middle(found)[0].sum(0).cpu().numpy(), difference

    found, difference = attribution(network)
    random = attribution(_with_random_weights(network))[0]
    correlation = float(spearmanr(found, random, axis=None).statistic)
    with torch.no_grad():
        made = prepare.middle(network(seen))[0].mean(0).cpu().numpy()
    shown = prepare.middle(seen)[0].mean(0).cpu().numpy()
    picture = _draw(shown, made, found, inside.numpy(), frame.range)
    say(f"explains {difference:+.3g}, the change of the region's mean from the blurred input")
    verdict = "WARNING: this map is similar to"
    if abs(correlation) < ALIKE:
        verdict = "this map differs from"
    limit = f"rank correlation {correlation:.2f} (should be below {ALIKE:g})"
    say(f"check    {verdict} the map of random weights: {limit}")
    if path:
        make_folder(path.parent)
        write_output(path, _png(picture))
        say(f"wrote    {path}")
    return Explanation(found, difference, correlation, picture, path)


def _picture_path(out: str | Path | None, overwrite: bool) -> Path | None:
    """OUT.png; UserError where it may not be written."""
    if out is None:
        return None
    named = expect_name(out, "OUT")
    path = named.with_name(f"{named.name.removesuffix('.png')}.png")
    expect_replaceable([path], overwrite, "OUT")
    return path


def _model(
    run: Any, to: str | None, device: str | None, say: Callable[[str], None]
) -> tuple[Any, str]:
    """The loaded run and the letter of the target domain; UserError where it cannot be explained."""
    from gantk import load
    from gantk.runs.models import find_model

    model = load(find_model(run, say), device=device) if isinstance(run, (str, PathLike)) else run
    if not hasattr(model, "network"):
        what = "an exported model or an ensemble has no gradients to explain"
        raise UserError(what, where="RUN", remedy="name one run folder")

    if not model.method.directions():
        name = model.recipe.method.name
        what = f"'{name}' generates images from noise, so there is no input to explain"
        raise UserError(what, where="RUN", allowed="runs that translate images")

    return model, model.domain(to)


def _planes(stack: np.ndarray, number: int | None, neighbours: int) -> Tensor:
    """A slice with its neighbours as channels, (1, C, *size), of a stack (slices, C, *size), which
    is one image for volumes and 3-D networks.
    """
    if number is None:
        number = len(stack) // 2
    if not 0 <= number < len(stack):
        allowed = f"0 to {len(stack) - 1}"
        raise UserError(f"the image has no slice {number}", where="--slice", allowed=allowed)

    places = neighbour_places(torch.tensor([number]), neighbours, len(stack))[0]
    return torch.from_numpy(np.concatenate(stack[places.tolist()]))[None]


def _region(text: str, sides: tuple[int, ...]) -> np.ndarray:
    """A mask (*sides) of the ranges in `text`, columns first; of everything without text."""
    inside = np.zeros(sides, bool)
    parts = [re.fullmatch(r"\s*(\d+):(\d+)\s*", part) for part in text.split(",") if part]
    ends = [tuple(map(int, part.groups())) if part else (0, 0) for part in parts]
    fits = [low < high <= side for (low, high), side in zip(ends, sides[::-1], strict=False)]
    if len(ends) not in (0, 2, len(sides)) or not all(fits):
        allowed = "columns,rows within " + ",".join(f"0:{side}" for side in sides[::-1])
        what = f"'{text}' is not a valid region of this image"
        raise UserError(what, where="--region", allowed=allowed)

    inside[(..., *(np.s_[low:high] for low, high in reversed(ends)))] = True
    return inside


def _blur(seen: np.ndarray) -> np.ndarray:
    """Images (1, C, *size) in which only coarse brightness is left."""
    return gaussian_filter(seen, [0, 0, *(side * BLUR for side in seen.shape[2:])], mode="nearest")


def _with_random_weights(network: torch.nn.Module) -> torch.nn.Module:
    """A copy with random weights of the same deviation, tensor by tensor."""
    other = deepcopy(network)
    drawn = torch.Generator().manual_seed(0)
    for weight in other.parameters():
        if weight.ndim > 1:
            noise = torch.randn(weight.shape, generator=drawn)
            weight.data = (noise * weight.std().cpu()).to(weight)
    return other


def _draw(
    seen: np.ndarray,
    made: np.ndarray,
    found: np.ndarray,
    inside: np.ndarray,
    ends: tuple[float, float],
) -> np.ndarray:
    """Input, translation with the region's outline, and the map over the input, uint8 (H, 3 W, 3);
    of volumes the plane with most of the map.
    """
    if seen.ndim == 3:
        best = int(np.abs(found).sum(axis=(1, 2)).argmax())
        seen, made, found, inside = (each[best] for each in (seen, made, found, inside))

    black, white = ends
    left, middle = (
        np.clip((each - black) / (white - black), 0, 1)[..., None].repeat(3, axis=2)
        for each in (seen, made)
    )
    middle[inside & ~binary_erosion(inside)] = YELLOW
    top = np.percentile(np.abs(found), SATURATION_PERCENTILE) or 1.0
    strength = np.clip(np.abs(found) / top, 0, 1)[..., None]
    colour = np.where(found[..., None] > 0, RED, BLUE)
    right = (1 - strength) * 0.7 * left + strength * colour
    return (255 * np.concatenate([left, middle, right], axis=1)).round().astype(np.uint8)


def _png(picture: np.ndarray) -> bytes:
    """A picture as PNG bytes, enlarged to at least 256 rows."""
    times = -(-256 // len(picture))
    file = BytesIO()
    Picture.fromarray(picture.repeat(times, 0).repeat(times, 1)).save(file, "PNG")
    return file.getvalue()
