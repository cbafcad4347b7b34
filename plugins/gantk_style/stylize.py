"""Style transfer on files: reads a content and a style image, writes one in the content's
intensities, on its grid.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gantk.errors import UserError
from gantk.files import expect_file, write_output
from gantk.formats.files import expect_file_of, read, write
from gantk.formats.image import Image, in_channels
from gantk.machine.runtime import start
from gantk.plugin.spec import bind, options_model
from gantk.prepare.module import size_image
from gantk.progress import Work
from gantk.recipe.load import Recipe, load_recipe
from gantk.terminal import Say
from gantk_style.curves import LossCurves
from gantk_style.encoder import check_colours
from gantk_style.post import StylePost, network_values

# options of the post-step that do not apply to two files
OF_GENERATORS = ("image", "role", "styles")
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
    gray: bool = False,
    losses: str | Path | None = None,
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
        set: `option=value` overrides; `gantk show post style` lists the options.
        steps, weights: shorthands for the options of these names.
        gray: turn colour images to gray first, so that a gray and a colour image can be combined.
        losses: a JSON file to write the content and style losses of all steps to.
        overwrite: whether to replace files that gantk did not write, or that were changed since.
        say: called with each line of text.

    Returns the path written. UserError before any work where a file, an option or the two images do
    not fit.
    """
    content, style, out = map(Path, (content, style, out))
    options = _of_recipe(recipe, profile) if recipe is not None else {}
    options |= Recipe({}).override(set).tables
    for name in OF_GENERATORS:
        if name in options:
            raise UserError(
                f"the option '{name}' is only for the post-step on generated images",
                where=f"--set {name}",
                remedy="leave it out",
            )

    given = {"steps": steps, "weights": weights}
    options |= {name: value for name, value in given.items() if value is not None}
    _expect_another(out, content, style)
    expect_file_of(content, out, "", "OUT")
    expect_file(out, "OUT", overwrite=overwrite)
    if losses is not None:
        expect_file(losses, "--losses", overwrite=overwrite)
    known = _read(content, gray)
    example = _read(style, gray)
    if known.channels != example.channels:
        names = {1: "gray", 3: "in colour"}
        what = f"'{content}' is {names[known.channels]} and '{style}' is {names[example.channels]}"
        raise UserError(what, where="STYLE", remedy="add --gray to convert both to gray")

    post = bind("post", {"name": "style"} | options)(2, RANGE)
    pixels, mapping = network_values(known.pixels, content, RANGE)
    slices = _stack(pixels)
    styles = _stack(network_values(example.pixels, style, RANGE)[0])
    size = slices.shape[2:]
    if styles.shape[2:] != size:
        other, own = (" x ".join(map(str, sides)) for sides in (styles.shape[2:], size))
        say(f"note     the style is resized from {other} to the content's {own}")

    if post.note:
        say(f"note     {post.note}")

    curves = LossCurves()
    painted = _paint(post, slices, styles, start(device).device, curves)
    last = (f"{name} {means[-1]:.4g}" for name, means in curves.means().items())
    say(f"losses   {', '.join(last)}")
    native = mapping.inverse(painted.swapaxes(0, 1) if known.dims > 2 else painted[0])
    native = np.asarray(native, dtype=np.float32).clip(known.pixels.min(), known.pixels.max())
    if known.is_integer:
        native = np.rint(native)

    write(out, replace(known, pixels=native), overwrite=overwrite)
    if losses is not None:
        write_output(Path(losses), json.dumps(curves.record(), indent=1).encode())

    say(f"written  {out}")
    return out


def _paint(
    post: StylePost,
    slices: np.ndarray,
    styles: np.ndarray,
    device: torch.device,
    curves: LossCurves,
) -> np.ndarray:
    """Stylise slices (D, C, H, W) by those of the style at the same height; constant slices stay
    unchanged. Adds the losses to `curves`.
    """
    painted = slices.copy()
    count = len(slices)
    contrasted = [k for k in range(count) if slices[k].min() < slices[k].max()]
    firsts = range(0, len(contrasted), post.batch)
    with Work("style", post.steps * len(firsts), "step") as work:
        for first in firsts:
            chosen = contrasted[first : first + post.batch]
            heights = [(2 * k + 1) * len(styles) // (2 * count) for k in chosen]
            examples = np.stack(
                [size_image(styles[k], slices.shape[2:], "resize") for k in heights]
            )
            if count > 1:
                work.what = f"slices {chosen[0] + 1} to {chosen[-1] + 1} of {count}"
            watch = partial(_watch, work, work.done, curves)
            batch = (torch.from_numpy(each).to(device) for each in (slices[chosen], examples))
            painted[chosen] = post.paint(*batch, shared=False, watch=watch)[0].cpu().numpy()

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
        what = (
            f"the recipe '{loaded.name}' has no style transfer, neither as its method nor as a"
            " [[post]] step"
        )
        raise UserError(
            what,
            where="--recipe",
            remedy="leave --recipe out, or name a recipe such as style_t1t2",
        )

    options = found[0]
    options["steps"] = options.pop("translate_steps", options.get("steps"))
    names = set(options_model(StylePost).model_fields).difference(OF_GENERATORS)
    return {name: value for name, value in options.items() if name in names}


def _expect_another(out: Path, content: Path, style: Path) -> None:
    """UserError where the result would replace an image that it is made of."""
    for name, path in (("CONTENT", content), ("STYLE", style)):
        if out.exists() and path.exists() and out.samefile(path):
            raise UserError(f"OUT is {name} itself", where=str(out), remedy="name another file")


def _read(path: Path, gray: bool) -> Image:
    """Read an image file; with `gray`, turn colour to its brightness."""
    image = read(path)
    check_colours(image.channels, f"'{path}'", str(path))
    return replace(image, pixels=in_channels(image.pixels, 1)) if gray else image


def _watch(
    work: Work, before: float, curves: LossCurves, step: int, losses: dict[str, torch.Tensor]
) -> None:
    """Show the progress, of which `before` was done, and add the losses to `curves`."""
    work.advance(before + step)
    curves.watch(step, losses)
