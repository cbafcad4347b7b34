"""Encodes sample pictures as data URIs for the page, and draws error maps on a fixed scale."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, WebPImagePlugin  # noqa: F401  Pillow would import all of its formats

from gantk.data.spread import spread
from gantk.files import read_file
from gantk.report.run_record import Direction, Samples

MAX_SHOWN_STEPS = 24  # of more, evenly spaced ones, so that the page stays small
# gray levels of 255 at the top of the error scale, so that maps of runs compare
ERROR_CEILING = 128
# Every 17th of the 256 colours of "inferno" (Smith, van der Walt; CC0): even steps of lightness,
# black for no error.
INFERNO = """
000004 0c0826 240c4f 420a68 5d126e 781c6d 932667 ae305c
c73e4c dd513a ed6925 f8850f fca50a fac62d f2e661 fcffa4
"""
PREVIEW_PIXELS = 192  # pixels of a preview
# "output", "error" and "cycle" (translated there and back): data URIs, "" where a file is missing;
# "mean" and "cycle_mean": mean differences from the truth and from the input
Frame = dict[str, list[str]]
TEXTS = ("mean", "cycle_mean")


class SampleBlock(NamedTuple):
    """The pictures of a direction as data URIs: of image i, and frames[kind][step number][i] with
    the kinds of `Frame`.
    """

    direction: Direction
    inputs: list[str]
    truths: list[str]
    frames: dict[str, list[list[str]]]


def sample_blocks(samples: Samples | None) -> tuple[list[int], list[SampleBlock]]:
    """The steps for the page's slider and one block per direction: the last step unchanged, earlier
    ones as previews.
    """
    if samples is None:
        return [], []

    steps = spread(samples.steps, MAX_SHOWN_STEPS)
    blocks = []
    for d in samples.directions:
        numbers = range(d.count)
        inputs = [data_uri(samples.picture("input", d, i)) for i in numbers if d.source]
        truths = [data_uri(samples.picture("truth", d, i)) for i in numbers if samples.has_truth]
        by_step = [_frame(samples, step, d, PREVIEW_PIXELS) for step in steps[:-1]]
        by_step.append(_frame(samples, steps[-1], d))
        frames = {kind: [frame[kind] for frame in by_step] for kind in by_step[0]}
        blocks.append(SampleBlock(d, inputs, truths, frames))

    return steps, blocks


def _frame(samples: Samples, step: int, direction: Direction, side: int | None = None) -> Frame:
    """Outputs, error maps and mean errors of a direction at a step, at most `side` pixels large."""
    frame: Frame = {"output": [], "error": [], "mean": [], "cycle": [], "cycle_mean": []}
    for i in range(direction.count):
        output = samples.picture(step, direction, i)
        frame["output"].append(data_uri(output, side))
        truth = samples.picture("truth", direction, i) if samples.has_truth else None
        error = _error(output, truth)
        drawn = "" if error is None else image_uri(error_picture(error, ERROR_CEILING), side)
        frame["error"].append(drawn)
        frame["mean"].append(_mean(error))
        if direction.cycle:
            back = samples.picture(f"step-{step:06d}/cycle", direction, i)
            frame["cycle"].append(data_uri(back, side))
            source = samples.picture("input", direction, i)
            frame["cycle_mean"].append(_mean(_error(back, source)))

    return frame


def _error(first: Path | None, second: Path | None) -> np.ndarray | None:
    """The absolute error (H, W) of two pictures in gray levels, averaged over channels; None where one
    is missing.
    """
    if first is None or second is None:
        return None
    with Image.open(first) as output, Image.open(second) as truth:
        mode = "L" if output.mode == truth.mode == "L" else "RGB"
        sized = truth.resize(output.size, Image.Resampling.BILINEAR)
        one, other = (np.asarray(image.convert(mode), np.float32) for image in (output, sized))
    return mean_error(*(levels.reshape(*levels.shape[:2], -1).T for levels in (one, other))).T


def _mean(error: np.ndarray | None) -> str:
    """The mean of an error in gray levels as a share of white; "" where there is none."""
    return "" if error is None else f"{error.mean() / 255:.1%}"


def error_picture(error: np.ndarray, largest: float) -> Image.Image:
    """Absolute errors (H, W) in the colours of inferno, from 0 to the largest one or more."""
    levels = np.round(np.minimum(error / largest, 1) * 255).astype(np.uint8)
    return colour_with_inferno(levels)


def mean_error(output: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """The absolute error (H, W) of pixels (C, H, W), the mean over their channels."""
    return np.abs(output - truth).mean(axis=0)


def error_scale() -> str:
    """The colour bar of every error map: 0 at the left, the ceiling's grey levels and more at the
    right.
    """
    return image_uri(colour_with_inferno(np.arange(256, dtype=np.uint8)[None, :]))


def colour_with_inferno(levels: np.ndarray) -> Image.Image:
    """Eight-bit levels in the colours of inferno."""
    known = np.frombuffer(bytes.fromhex(INFERNO), np.uint8).reshape(-1, 3)
    places = np.arange(256)
    colours = [np.interp(places, places[::17], channel) for channel in known.T]
    image = Image.fromarray(levels)
    image.putpalette(np.stack(colours, axis=1).round().astype(np.uint8).tobytes())
    return image


def data_uri(path: Path | None, side: int | None = None) -> str:
    """A PNG file as a data URI, unchanged or shrunk to at most `side` pixels; "" where it is
    missing.
    """
    if path is None:
        return ""
    if side is None:
        return _uri("png", read_file(path))

    with Image.open(path) as image:
        return image_uri(image, side)


def image_uri(image: Image.Image, side: int | None = None) -> str:
    """A picture as the data URI of a PNG file; with `side` lossy and shrunk to at most as many pixels,
    for earlier steps of long or large runs.
    """
    buffer = io.BytesIO()
    if side is None:
        image.save(buffer, "png", optimize=True)
        return _uri("png", buffer.getvalue())

    small = image.convert("RGB")
    small.thumbnail((side, side), Image.Resampling.BICUBIC)
    small.save(buffer, "webp", quality=75)
    return _uri("webp", buffer.getvalue())


def _uri(kind: str, content: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode('ascii')}"
