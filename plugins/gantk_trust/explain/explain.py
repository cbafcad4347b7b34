"""Attributes a region of a translation to the pixels of its input, and compares the map with that
of random weights.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gantk.errors import UserError, importing
from gantk.files import expect_name, expect_replaceable, make_folder, write_output
from gantk.formats.files import read, write
from gantk.formats.image import UPRIGHT, Image
from gantk_trust.explain.picture import panels, png
from gantk_trust.explain.view import View

INTEGRAL_STEPS = 32  # steps of the integral from the blurred image to the image
BLUR = 1 / 10  # standard deviation of the blur, as a share of a side
ALIKE = 0.5  # rank correlation with the map of random weights above which a warning is printed


@dataclass(frozen=True)
class Explanation:
    """The result of `explain`: `map` is an Image of one channel on the input's grid, above 0 where
    pixels raised the region's mean and below 0 where they lowered it, in network intensities.
    """

    map: Image
    picture: np.ndarray  # uint8 (H, 3 W, 3): input, translation, map
    random_correlation: float  # Spearman's, with the map of random weights, at the networks' size
    # the same for absolute values, which depend on edges and the region's position
    random_magnitudes: float
    difference: float  # the region's mean minus that for the blurred input, in network intensities
    # the map's sum at the networks' size: near `difference` (completeness)
    total: float
    paths: tuple[Path, ...] = ()


def explain(
    run: Any,
    image: str | Path,
    out: str | Path | None = None,
    *,
    to: str | None = None,
    label: str | None = None,
    region: str = "",
    mask: str | Path | None = None,
    slice: int | None = None,
    overwrite: bool = False,
    device: str | None = None,
    say: Callable[[str], None] = print,
) -> Explanation:
    """Compute how much each pixel of an image contributes to a region of its translation.

    The gradient of the region's mean is integrated from the blurred image to the image
    (Sundararajan et al. 2017, eq. 1). The baseline is blurred and not black, because instance norms
    scale even the faintest image to full contrast: on a path from black everything would change in
    the first step.

    The same map is computed with random weights, and `random_correlation` compares both. A map that
    hardly changes does not show what was learnt (Adebayo et al. 2018).

    Args:
        run: a run folder, a checkpoint, or the result of `gantk.load`.
        image: the file to translate.
        out: writes OUT.png and OUT.nii.gz. None writes nothing.
        to: the target domain, by name.
        label: the class of the image, for a run that was trained with classes.
        region: columns and rows of the slice as shown, "x0:x1,y0:y1". For volumes and 3-D networks
            also planes, ",z0:z1". Without region and mask: the whole image.
        mask: an image on the same grid. The region is where it is above 0.
        slice: for a volume and 2-D networks, the slice along the run's plane, from 0. Default: the
            middle one, or the one with most of the mask.
        overwrite: whether to replace files that gantk did not write, or that were changed since.
        device: as in `gantk.run`.
        say: called with each line of output.

    Raises:
        UserError: the run makes no translations or has no gradients, region or mask do not fit, or
            the image is larger than the input of the networks.
    """
    if out is not None:
        expect_replaceable(_result_paths(expect_name(out, "OUT")), overwrite, "OUT")
    attribute = _captum()
    model, letter = _model(run, to, device, say)
    view = View(model, letter, read(Path(image)), slice, mask, region)
    x, blurred = (
        torch.from_numpy(each)[None].to(model.runtime.device)
        for each in (view.seen, blur(view.seen))
    )
    inside = view.inside.to(x.device)

    def attribution_of(network: Any) -> tuple[Tensor, Tensor, float]:
        def translate_middle(images: Tensor) -> Tensor:
            return view.prepare.middle(
                network.translate(model.runtime.place(images, view.frame.dims), letter).float()
            )

        def score(images: Tensor) -> Tensor:
            return translate_middle(images)[:, :, inside].flatten(1).mean(1)

        found = attribute(score, x, blurred, view.frame.batch)
        with torch.no_grad():
            rise = float(score(x) - score(blurred))
            return found[0].float().cpu(), translate_middle(x)[0].cpu(), rise

    network = model.method_of_class(label)
    found, made, rise = attribution_of(network)
    other = attribution_of(randomise_weights(network))[0]
    correlation = rank_correlation(found, other)
    magnitudes = rank_correlation(found.abs(), other.abs())
    picture = panels(*view.display_planes(x[0].cpu(), made, found), view.frame.range)
    result = Explanation(
        view.on_file(found), picture, correlation, magnitudes, rise, float(found.sum())
    )
    say(
        f"explains {rise:+.3g}, the change of the region's mean from the blurred input; the map"
        f" sums to {result.total:+.3g}"
    )
    verdict = (
        "this map differs from" if abs(correlation) < ALIKE else "WARNING: this map is similar to"
    )
    figures = (
        f"rank correlation {correlation:.2f} (should be below {ALIKE:g}), {magnitudes:.2f} of"
        " magnitudes"
    )
    say(f"check    {verdict} the map of random weights: {figures}")
    return replace(result, paths=_write_result(result, Path(out), say)) if out else result


def _result_paths(out: Path) -> tuple[Path, Path]:
    """The paths of OUT.png and OUT.nii.gz; OUT may end with either suffix."""
    stem = out.name.removesuffix(".gz").removesuffix(".nii").removesuffix(".png")
    return out.with_name(f"{stem}.png"), out.with_name(f"{stem}.nii.gz")


def _write_result(result: Explanation, out: Path, say: Callable[[str], None]) -> tuple[Path, ...]:
    """Write the picture and the map, and return their paths."""
    picture, file = _result_paths(out)
    make_folder(picture.parent)
    affine = UPRIGHT if result.map.affine is None else result.map.affine
    write(file, Image(result.map.pixels, affine), "gantk explain", overwrite=True)
    write_output(picture, png(result.picture))
    say(f"wrote    {picture} and {file}")
    return picture, file


def blur(seen: np.ndarray) -> np.ndarray:
    """Blur an image (C, *size) so strongly that only coarse brightness is left."""
    from scipy.ndimage import gaussian_filter

    return gaussian_filter(seen, [0, *(side * BLUR for side in seen.shape[1:])], mode="nearest")


def randomise_weights(method: Any) -> Any:
    """A copy of a method with random weights, drawn per tensor from a normal distribution of the
    same deviation.
    """
    other = deepcopy(method)
    drawn = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in other.parameters():
            if weight.ndim > 1:
                weight.copy_(
                    torch.randn(weight.shape, generator=drawn) * weight.float().std().cpu()
                )

    return other


def rank_correlation(one: Tensor, other: Tensor) -> float:
    """Spearman's rank correlation of two maps; 0 where one of them is constant."""
    from scipy.stats import spearmanr

    flat = [each.flatten().numpy() for each in (one, other)]
    return float(spearmanr(*flat).statistic) if min(map(np.ptp, flat)) else 0.0


def _captum() -> Callable[..., Tensor]:
    """Return a function (score, x (1, C, *size), blurred, batch) -> attributions (1, C, *size);
    needs captum.
    """
    with importing("`gantk explain`", "explain"):
        from captum.attr import IntegratedGradients

    def attribute(score: Callable, x: Tensor, blurred: Tensor, batch: int) -> Tensor:
        options = {"baselines": blurred, "n_steps": INTEGRAL_STEPS, "internal_batch_size": batch}
        return IntegratedGradients(score).attribute(x, **options).detach()

    return attribute


def _model(
    run: Any, to: str | None, device: str | None, say: Callable[[str], None]
) -> tuple[Any, str]:
    """Load the run; returns the model and the target domain's letter. UserError where it cannot be
    explained.
    """
    from gantk import load
    from gantk.runs.models import find_model

    model = load(find_model(run, say), device=device) if isinstance(run, (str, PathLike)) else run
    if not hasattr(model, "method"):
        raise UserError(
            "an exported model has no gradients to explain",
            where="RUN",
            remedy="name the run folder",
        )

    if not model.method.directions():
        what = (
            f"'{model.recipe.method.name}' generates images from noise, so there is no input to"
            " explain"
        )
        raise UserError(what, where="RUN", allowed="runs that translate images")

    return model, model.domain(to)
