"""Style transfer on files: reads a content and a style image, writes one in the content's
intensities, on its grid.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gantk.errors import UserError
from gantk.files import expect_file
from gantk.formats.files import expect_file_of, read, write
from gantk.machine.runtime import start
from gantk.plugin.spec import check, options_model
from gantk.prepare.module import size_image
from gantk.progress import Work
from gantk.recipe.load import Recipe, load_recipe
from gantk.terminal import Say
from gantk_style.curves import LossCurves
from gantk_style.objective import PaintOptions
from gantk_style.post import network_values
from gantk_style.transfer import transfer

RANGE = (-1.0, 1.0)


def stylize(
    content: str | Path,
    style: str | Path,
    out: str | Path,
    *,
    recipe: str | Path | Mapping[str, Any] | None = None,
    profile: str | None = None,
    set: Iterable[str] = (),
    steps: int | None = None,
    weights: str | None = None,
    overwrite: bool = False,
    device: str | None = None,
    say: Say = print,
) -> Path:
    """Write `out`: the content of one image file in the style of another.

    The result has the content's size, grid and bits, and stays within its intensities: its 0th and
    99.5th percentiles are the network's black and white. The style image is resized to the
    content's size. Volumes are processed slice by slice, each with the style's slice at the same
    relative height.

    Args:
        recipe: take the options of this recipe's method "style", or of its first `[[post]]` step
          "style".
        profile: a profile of that recipe.
        set: `option=value` overrides, those of PaintOptions.
        steps, weights: shorthands for the options of these names.
        overwrite: whether to replace files that gantk did not write, or that were changed since.
        say: called with each line of text.

    Returns the path written. UserError before any work where a file, an option or the two images do
    not fit.
    """
    content, style, out = map(Path, (content, style, out))
    options = _of_recipe(recipe, profile) if recipe is not None else {}
    options |= Recipe({}).override(set).tables
    given = {"steps": steps, "weights": weights}
    options |= {name: value for name, value in given.items() if value is not None}
    how = PaintOptions(**dict(check(options_model(PaintOptions), options, "gantk stylize")))
    expect_file_of(content, out, "", "OUT")
    expect_file(out, "OUT", overwrite=overwrite)
    known = read(content)
    pixels, mapping = network_values(known.pixels, content, RANGE)
    slices = _stack(pixels)
    styles = _stack(network_values(read(style).pixels, style, RANGE)[0])
    size = slices.shape[2:]
    if styles.shape[2:] != size:
        other, own = (" x ".join(map(str, sides)) for sides in (styles.shape[2:], size))
        say(f"note     the style is resized from {other} to the content's {own}")

    if how.note:
        say(f"note     {how.note}")

    curves = LossCurves()
    painted = _paint(how, slices, styles, start(device).device, curves)
    last = (f"{name} {means[-1]:.4g}" for name, means in curves.means().items())
    say(f"losses   {', '.join(last)}")
    native = mapping.inverse(painted.swapaxes(0, 1) if known.dims > 2 else painted[0])
    native = np.asarray(native, dtype=np.float32).clip(known.pixels.min(), known.pixels.max())
    if known.is_integer:
        native = np.rint(native)

    write(out, replace(known, pixels=native), overwrite=overwrite)
    say(f"written  {out}")
    return out


def _paint(
    how: PaintOptions,
    slices: np.ndarray,
    styles: np.ndarray,
    device: torch.device,
    curves: LossCurves,
) -> np.ndarray:
    """Stylise slices (D, C, H, W) by those of the style at the same height; constant slices stay
    unchanged. Adds the losses to `curves`.
    """
    painted = slices.copy()
    encoder = how.encoder(RANGE)
    count = len(slices)
    contrasted = [k for k in range(count) if slices[k].min() < slices[k].max()]
    firsts = range(0, len(contrasted), how.batch)
    options = {"encoder": encoder, "how": how, "steps": how.steps, "shared": False}
    with Work("style", how.steps * len(firsts), "step") as work:
        for first in firsts:
            chosen = contrasted[first : first + how.batch]
            heights = [(2 * k + 1) * len(styles) // (2 * count) for k in chosen]
            examples = np.stack(
                [size_image(styles[k], slices.shape[2:], "resize") for k in heights]
            )
            if count > 1:
                work.what = f"slices {chosen[0] + 1} to {chosen[-1] + 1} of {count}"
            before = work.done

            def watch(step: int, losses: dict[str, torch.Tensor], before: float = before) -> None:
                work.advance(before + step)
                curves.watch(step, losses)

            batch = (torch.from_numpy(each).to(device) for each in (slices[chosen], examples))
            painted[chosen] = transfer(*batch, **options, watch=watch).cpu().numpy()

    return painted


def _stack(pixels: np.ndarray) -> np.ndarray:
    """Bring (C, H, W) or (C, D, H, W) to slices (D, C, H, W)."""
    return pixels[None] if pixels.ndim == 3 else np.ascontiguousarray(pixels.swapaxes(0, 1))


def _of_recipe(recipe: str | Path | Mapping[str, Any], profile: str | None) -> dict[str, Any]:
    """A recipe's settings of style transfer, from its method or a post-step, as options of the
    post-step.
    """
    loaded = load_recipe(recipe)
    model = loaded.override([], profile).check()
    found = [part.table() for part in (model.method, *model.post) if part.name == "style"]
    if not found:
        raise UserError(
            f"the recipe '{loaded.name}' has no style transfer, neither as its method nor as a"
            " [[post]] step",
            where="--recipe",
            remedy="leave --recipe out, or name a recipe such as style_t1t2",
        )

    options = found[0]
    options["steps"] = options.pop("translate_steps", options.get("steps"))
    names = {field.name for field in fields(PaintOptions)}
    return {name: value for name, value in options.items() if name in names}
