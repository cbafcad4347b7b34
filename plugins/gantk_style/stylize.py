"""Style transfer on files: two images in, one out, in the content's intensities and on its grid."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gantk.data.intensity import Percentile
from gantk.data.resample import resize
from gantk.errors import UserError
from gantk.formats.files import is_image, is_volume, read, readable, suffix_of, write
from gantk.formats.image import Image
from gantk.machine.runtime import start
from gantk.nets.pretrained import check_colours
from gantk.plugin.spec import bind_or_raise, options_model
from gantk.recipe.load import Recipe, load_recipe
from gantk_style.canvas import luminance
from gantk_style.post import StylePost, network_values

OF_GENERATORS = ("image", "role", "styles")  # options of the post-step that mean nothing to two files
LINES = 5  # of progress
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
    device: str | None = None,
    say: Callable[[str], None] = print,
) -> Path:
    """Write `out`: the content of one image file in the style of another.

    The result has the content's size, grid and bits, and stays within its intensities: its 0th and 99.5th percentiles
    are what the network takes for black and white. The style's image is brought to the content's size. Volumes go
    slice by slice, each with the style's slice at the same height.

    Args:
        recipe: whose options to take: those of its method "style", or of its first `[[post]]` step "style".
        profile: of that recipe.
        set: `option=value` over them; `gantk show post style` lists the options.
        steps, weights: shorthands for the options of these names.
        gray: turn colour images to gray first; so gray and colour can meet.
        say: where lines of text go.

    Returns the path written. UserError before any work where a file, an option or the two images do not fit.
    """
    content, style, out = Path(content), Path(style), Path(out)
    options = _options(recipe, profile, set, {"steps": steps, "weights": weights})
    _check_paths(content, style, out)
    known, example = _read(content, gray), _read(style, gray)
    _check_colours(known, example, options.get("color", "style"))
    device = start(device).device
    post = bind_or_raise("post", {"name": "style"} | options)(2, RANGE)
    pixels, mapping = network_values(known.pixels, content, RANGE)
    styles, _ = network_values(example.pixels, style, RANGE)
    size = pixels.shape[-2:]
    if styles.shape[-2:] != size:
        say(f"note     the style is resized from {_text(styles.shape[-2:])} to the content's {_text(size)}")
    slices, styles = _stack(pixels), _stack(styles)
    try:
        post.encoder.check_size(size)
    except UserError as error:
        raise error.at(str(content)) from None
    done = slices.copy()
    shown = [k for k in range(len(slices)) if slices[k].min() < slices[k].max()]  # air alone stays air
    for first in range(0, len(shown), post.batch):
        chosen = shown[first : first + post.batch]
        examples = np.stack([resize(styles[(2 * k + 1) * len(styles) // (2 * len(slices))], size) for k in chosen])
        label = "style" if len(slices) == 1 else f"slices {chosen[0] + 1} to {chosen[-1] + 1} of {len(slices)}"
        images = (torch.from_numpy(each).to(device) for each in (slices[chosen], examples))
        watch = _progress(label, post.how["steps"], say)
        done[chosen] = post.paint(*images, shared=False, watch=watch)[0].cpu().numpy()
    write(out, replace(known, pixels=_native(done if known.dims > 2 else done[0], mapping, known)))
    say(f"written  {out}")
    return out


def _options(recipe, profile: str | None, settings: Iterable[str], shorthands: dict[str, Any]) -> dict[str, Any]:
    """The post-step's options: those of a recipe, settings over them, shorthands over these."""
    options = _of_recipe(recipe, profile) if recipe is not None else {}
    given = Recipe({}).override(settings).tables
    for name in OF_GENERATORS:
        if name in given:
            raise UserError(f"'{name}' is for generated images: there are two files here", where=f"--set {name}")
    return options | given | {name: value for name, value in shorthands.items() if value is not None}


def _of_recipe(recipe, profile: str | None) -> dict[str, Any]:
    """What a recipe says of style transfer: in its method, or in a post-step."""
    loaded = load_recipe(recipe)
    model = loaded.override([], profile).check()
    found = [part for part in (model.method, *model.post) if part.name == "style"]
    if not found:
        what = f"the recipe '{loaded.name}' has no style transfer, neither as its method nor as a [[post]] step"
        raise UserError(what, where="--recipe", remedy="leave --recipe out, or name one such as style_t1t2")
    table = found[0].table()
    table["steps"] = table.pop("translate_steps", table.get("steps"))
    known = options_model(StylePost).model_fields
    return {name: value for name, value in table.items() if name in known and name not in OF_GENERATORS}


def _check_paths(content: Path, style: Path, out: Path) -> None:
    """UserError where OUT cannot be written, or would take the place of what is read."""
    if out.is_dir() or not is_image(out):
        what = f"'{out}' is a folder" if out.is_dir() else f"'{out.name}' has no suffix that gantk writes"
        raise UserError(what, where="OUT", allowed=f"a file, such as {out.stem or 'styled'}{suffix_of(content)}")
    if content.is_file() and is_image(content) and is_volume(content) != is_volume(out):
        raise UserError(f"'{content.name}' cannot become '{out.name}'", where="OUT", allowed=suffix_of(content))
    for name, path in (("CONTENT", content), ("STYLE", style)):
        if path.exists() and not path.is_dir() and not is_image(path):
            raise UserError(f"'{path.name}' is not an image that gantk reads", where=name, allowed=readable())
        if out.exists() and path.exists() and out.samefile(path):
            raise UserError(f"OUT is {name} itself", where=str(out), remedy="name another file")


def _read(path: Path, gray: bool) -> Image:
    """The image of a file, gray where that is asked for."""
    image = read(path)
    check_colours(image.channels, f"'{path}'", str(path))
    if not gray:
        return image
    return replace(image, pixels=luminance(torch.from_numpy(image.pixels[None]))[0].numpy())


def _check_colours(content: Image, style: Image, color: str) -> None:
    names = {1: "gray", 3: "in colour"}
    if content.channels != style.channels and color == "style":
        what = f"'{content.path}' is {names[content.channels]} and '{style.path}' is {names[style.channels]}"
        remedy = "add --gray to turn both to gray, or --set color=content to keep CONTENT's colours as they are"
        raise UserError(what, where="STYLE", remedy=remedy)


def _stack(pixels: np.ndarray) -> np.ndarray:
    """(C, H, W) or (C, D, H, W) as slices (D, C, H, W)."""
    return pixels[None] if pixels.ndim == 3 else np.ascontiguousarray(pixels.swapaxes(0, 1))


def _native(pixels: np.ndarray, mapping: Percentile, known: Image) -> np.ndarray:
    """Back to the content's intensities: within its own extremes, and whole numbers where its file holds such."""
    pixels = pixels.swapaxes(0, 1) if pixels.ndim == 4 else pixels
    native = np.asarray(mapping.inverse(pixels), dtype=np.float32).clip(known.pixels.min(), known.pixels.max())
    return np.rint(native) if known.dtype is not None and np.issubdtype(known.dtype, np.integer) else native


def _progress(label: str, steps: int, say: Callable[[str], None]) -> Callable[[int, torch.Tensor], None]:
    """Says a few times how far the objective has fallen."""
    starts: list[float] = []

    def watch(step: int, objective: torch.Tensor) -> None:
        mean = float(objective.mean())
        starts.append(mean)
        if step in {round(steps * k / LINES) for k in range(1, LINES + 1)}:
            fall = f", {starts[0] / mean:.1f} times below the start" if mean > 0 else ""
            say(f"{label:<8} step {step} of {steps}, objective {mean:.4g}{fall}")

    return watch


def _text(size: tuple[int, ...]) -> str:
    return " x ".join(map(str, size))
