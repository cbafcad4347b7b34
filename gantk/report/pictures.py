"""Sample pictures as data URIs: inputs, outputs step by step, truths, and error maps on one fixed scale."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from gantk.report.folder import Direction, Samples

LOSSLESS_BUDGET = 4_000_000  # bytes of pictures that are embedded as they are; above it earlier steps become previews
PREVIEW_BUDGET = 4_000_000  # bytes of previews; above it earlier steps are thinned out
ERROR_CEILING = 64  # grey levels of 255 at the top of the error scale: fixed, so that maps compare across runs


@dataclass(frozen=True)
class Block:
    """The sample pictures of one direction as data URIs; outputs[step][i], errors[step][i] and error_means[step][i]."""

    direction: Direction
    inputs: list[str]
    truths: list[str]
    outputs: list[list[str]]
    errors: list[list[str]]
    error_means: list[list[str]]


def sample_blocks(samples: Samples | None) -> tuple[list[int], list[Block]]:
    """The steps that the scrubber shows and every direction's pictures, within the budget of bytes."""
    if samples is None:
        return [], []
    last, steps = samples.steps[-1], list(samples.steps)
    large = len(steps) * _size(samples, last, False) > LOSSLESS_BUDGET
    if large:
        steps = evenly(steps, int(PREVIEW_BUDGET / max(_size(samples, steps[0], True), _size(samples, last, True), 1)))
    blocks = []
    for direction in samples.directions:
        frames = [_step(samples, direction, step, large and step != last) for step in steps]
        blocks.append(
            Block(
                direction,
                [_embedded(samples.input(direction, i)) for i in range(direction.count)] if direction.source else [],
                [_embedded(samples.truth(direction, i)) for i in range(direction.count)] if samples.has_truth else [],
                *(list(part) for part in zip(*frames, strict=True)),
            )
        )
    return steps, blocks


def _size(samples: Samples, step: int, small: bool) -> int:
    """Bytes that one step of all directions takes in the page."""
    frames = [_step(samples, direction, step, small) for direction in samples.directions]
    return sum(len(uri) for outputs, errors, _ in frames for uri in outputs + errors)


def _step(samples: Samples, d: Direction, step: int, small: bool) -> tuple[list[str], list[str], list[str]]:
    outputs, errors, means = [], [], []
    for i in range(d.count):
        output, truth = samples.output(d, i, step), samples.truth(d, i)
        outputs.append(_embedded(output, small))
        error, mean = "", ""
        if samples.has_truth and output.is_file() and truth.is_file():
            with Image.open(output) as first, Image.open(truth) as second:
                picture, value = error_map(first, second)
            error, mean = preview(picture) if small else encoded(picture), f"{value:.1f}"
        errors.append(error)
        means.append(mean)
    return outputs, errors, means


def _embedded(path: Path, small: bool = False) -> str:
    if not path.is_file():
        return ""
    if not small:
        return png_uri(path)
    with Image.open(path) as image:
        return preview(image)


def png_uri(path: Path) -> str:
    """A PNG file, byte for byte, as a data URI."""
    return _uri("image/png", path.read_bytes())


def encoded(image: Image.Image) -> str:
    """A picture as a lossless PNG data URI."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=True)
    return _uri("image/png", buffer.getvalue())


def preview(image: Image.Image, side: int = 192) -> str:
    """A picture no larger than `side` as a lossy data URI, for the frames in between of a long or large run."""
    small = image.convert("RGB")
    small.thumbnail((side, side), Image.Resampling.BICUBIC)
    buffer = io.BytesIO()
    small.save(buffer, "WEBP", quality=75)
    return _uri("image/webp", buffer.getvalue())


def error_map(output: Image.Image, truth: Image.Image) -> tuple[Image.Image, float]:
    """Absolute error, channels averaged, on the colours of `error_scale`; and its mean in grey levels."""
    if output.size != truth.size:
        truth = truth.resize(output.size, Image.Resampling.BILINEAR)
    mode = "L" if output.mode == truth.mode == "L" else "RGB"
    first, second = (np.asarray(image.convert(mode), dtype=np.float32) for image in (output, truth))
    error = np.abs(first - second)
    if error.ndim == 3:
        error = error.mean(axis=2)
    levels = np.round(np.minimum(error / ERROR_CEILING, 1) * 255).astype(np.uint8)
    return _coloured(levels), float(error.mean())


def error_scale() -> str:
    """The colour bar of every error map: 0 at the left, ERROR_CEILING grey levels and more at the right."""
    return encoded(_coloured(np.arange(256, dtype=np.uint8)[None, :]))


def _coloured(levels: np.ndarray) -> Image.Image:
    """Eight-bit levels through inferno: even steps of lightness, black where nothing is wrong."""
    import matplotlib

    image = Image.fromarray(levels)
    image.putpalette((matplotlib.colormaps["inferno"](np.arange(256))[:, :3] * 255).round().astype(np.uint8).tobytes())
    return image


def evenly(items: Sequence[int], most: int) -> list[int]:
    """At most `most` of the items, evenly spread, the first and the last always among them."""
    if len(items) <= most:
        return list(items)
    places = np.linspace(0, len(items) - 1, max(most, 2)).round().astype(int)
    return [items[i] for i in places]


def _uri(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"
