"""Sample pictures: data URIs for the page, error maps on one fixed scale, and samples/training.gif."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from gantk.files import write_file
from gantk.report.run_record import Direction, Samples, read_run

LOSSLESS_BUDGET = 4_000_000  # bytes of pictures that are embedded as they are; above it earlier steps become previews
PREVIEW_BUDGET = 4_000_000  # bytes of previews; above it earlier steps are thinned out
ERROR_CEILING = 64  # grey levels of 255 at the top of the error scale: fixed, so that maps compare across runs
# Every 17th of the 256 colours of "inferno" (Smith, van der Walt; CC0): even steps of lightness, black for no error.
INFERNO = (
    (0, 0, 4), (12, 8, 38), (36, 12, 79), (66, 10, 104), (93, 18, 110), (120, 28, 109), (147, 38, 103), (174, 48, 92),
    (199, 62, 76), (221, 81, 58), (237, 105, 37), (248, 133, 15), (252, 165, 10), (250, 198, 45), (242, 230, 97),
    (252, 255, 164),
)  # fmt: skip

TILE = 192  # pixels of the film's pictures: smaller ones are enlarged by whole factors to this, larger ones reduced
GAP, MARGIN, LINE = 6, 14, 24  # pixels between tiles, around all, and per line of text
BACKGROUND, INK, QUIET = (16, 17, 20), (236, 234, 228), (150, 154, 162)
ATTEMPTS = ((4, 60), (3, 40), (2, 30), (1, 24), (1, 12))  # samples a direction, frames: the first that fits is written
MOST_BYTES = 4_000_000
FRAME_MS, LAST_MS = 350, 2500


def sample_blocks(samples: Samples | None) -> tuple[list[int], list[dict[str, Any]]]:
    """The steps that the scrubber shows and, by direction, its pictures as data URIs, within the budget of bytes.

    A block holds direction, inputs[i], truths[i], outputs[step][i], errors[step][i] and error_means[step][i].
    """
    if samples is None:
        return [], []

    def frames(step: int, small: bool) -> list[tuple[list[str], list[str], list[str]]]:
        return [_frame(samples, direction, step, small) for direction in samples.directions]

    def size(step: int, small: bool) -> int:
        return sum(len(uri) for outputs, errors, _ in frames(step, small) for uri in outputs + errors)

    steps, last = list(samples.steps), samples.steps[-1]
    large = len(steps) * size(last, False) > LOSSLESS_BUDGET
    if large:
        steps = evenly(steps, int(PREVIEW_BUDGET / max(size(steps[0], True), size(last, True), 1)))
    by_step = [frames(step, large and step != last) for step in steps]
    blocks = []
    for place, d in enumerate(samples.directions):
        outputs, errors, means = (list(part) for part in zip(*(found[place] for found in by_step), strict=True))
        inputs = [_embedded(samples.input(d, i)) for i in range(d.count)] if d.source else []
        truths = [_embedded(samples.truth(d, i)) for i in range(d.count)] if samples.has_truth else []
        block = {"direction": d, "inputs": inputs, "truths": truths, "outputs": outputs}
        blocks.append(block | {"errors": errors, "error_means": means})
    return steps, blocks


def _frame(samples: Samples, d: Direction, step: int, small: bool) -> tuple[list[str], list[str], list[str]]:
    """One direction's outputs, error maps and mean errors at a step; "" where a file is missing."""
    outputs, errors, means = [], [], []
    for i in range(d.count):
        output, truth = samples.output(d, i, step), samples.truth(d, i)
        outputs.append(_embedded(output, small))
        error, mean = "", ""
        if samples.has_truth and output.is_file() and truth.is_file():
            with Image.open(output) as first, Image.open(truth) as second:
                picture, value = error_map(first, second)
            error, mean = preview(picture) if small else _png(picture), f"{value:.1f}"
        errors.append(error)
        means.append(mean)
    return outputs, errors, means


def _embedded(path: Path, small: bool = False) -> str:
    """A PNG file as a data URI, byte for byte unless `small`; "" where it is missing."""
    if not path.is_file():
        return ""
    if not small:
        return _uri("image/png", path.read_bytes())
    with Image.open(path) as image:
        return preview(image)


def preview(image: Image.Image, side: int = 192) -> str:
    """A picture no larger than `side` as a lossy data URI, for the frames in between of a long or large run."""
    small = image.convert("RGB")
    small.thumbnail((side, side), Image.Resampling.BICUBIC)
    buffer = io.BytesIO()
    small.save(buffer, "WEBP", quality=75)
    return _uri("image/webp", buffer.getvalue())


def _png(image: Image.Image) -> str:
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=True)
    return _uri("image/png", buffer.getvalue())


def _uri(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"


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
    return _png(_coloured(np.arange(256, dtype=np.uint8)[None, :]))


def _coloured(levels: np.ndarray) -> Image.Image:
    """Eight-bit levels in the colours of inferno."""
    colours = [np.interp(np.arange(256), np.arange(0, 256, 17), channel) for channel in np.transpose(INFERNO)]
    image = Image.fromarray(levels)
    image.putpalette(np.stack(colours, axis=1).round().astype(np.uint8).tobytes())
    return image


def evenly(items: Sequence[int], most: int) -> list[int]:
    """At most `most` of the items (two at least), evenly spread, the first and the last always among them."""
    if len(items) <= most:
        return list(items)
    places = np.linspace(0, len(items) - 1, max(most, 2)).round().astype(int)
    return [items[i] for i in places]


def write_animation(run: Path) -> Path | None:
    """Writes samples/training.gif, rows of input | output | truth, the step above; None where nothing was sampled."""
    samples = read_run(Path(run)).samples
    if samples is None:
        return None
    for rows, most_frames in ATTEMPTS:
        content = _film(samples, rows, most_frames)
        if len(content) <= MOST_BYTES:
            break
    return write_file(samples.folder / "training.gif", content)


def _film(samples: Samples, rows: int, most_frames: int) -> bytes:
    """A GIF of the samples at no more than so many steps."""
    outputs = (samples.output(d, 0, samples.steps[-1]) for d in samples.directions)
    with Image.open(next(path for path in outputs if path.is_file())) as image:
        width, height = image.size
    scale = TILE / max(width, height)
    scale = math.ceil(scale) if scale > 1 else scale  # whole factors, so that pixels stay square and sharp
    tile = max(1, round(width * scale)), max(1, round(height * scale))
    frames = [_drawn(samples, rows, step, tile) for step in evenly(samples.steps, most_frames)]
    both_ends = Image.new("RGB", (frames[0].width, 2 * frames[0].height))
    both_ends.paste(frames[0], (0, 0))
    both_ends.paste(frames[-1], (0, frames[0].height))
    palette = both_ends.quantize(256, method=Image.Quantize.MEDIANCUT)  # one for all, so that nothing flickers
    frames = [frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames]
    buffer = io.BytesIO()
    durations = [FRAME_MS] * (len(frames) - 1) + [LAST_MS]
    frames[0].save(buffer, "GIF", save_all=True, append_images=frames[1:], duration=durations, loop=0)
    return buffer.getvalue()


def _grid(samples: Samples, d: Direction, rows: int, step: int) -> tuple[list[str], list[list[Path]]]:
    """The heads and the files of one direction: rows of input | output | truth, or a square of images from noise."""
    count = max(1, min(d.count, rows if d.source else rows * rows))
    outputs = [samples.output(d, i, step) for i in range(count)]
    if d.source is None:
        across = math.ceil(math.sqrt(count))
        return [], [outputs[i : i + across] for i in range(0, count, across)]
    truths = [[samples.truth(d, i)] if samples.has_truth else [] for i in range(count)]
    heads = [f"input {d.source}", f"output {d.target}", *([f"truth {d.target}"] if samples.has_truth else [])]
    return heads, [[samples.input(d, i), outputs[i], *truths[i]] for i in range(count)]


def _drawn(samples: Samples, rows: int, step: int, tile: tuple[int, int]) -> Image.Image:
    """One frame of the film: the step above, the directions side by side, how far training has come beneath."""
    grids = [_grid(samples, d, rows, step) for d in samples.directions]
    across, down = tile[0] + GAP, tile[1] + GAP
    width = sum(len(files[0]) for _, files in grids) * across - GAP + 2 * MARGIN * len(grids)
    top = MARGIN + 2 * LINE
    height = top + max(len(files) for _, files in grids) * down - GAP + MARGIN + 4
    frame = Image.new("RGB", (width, height), BACKGROUND)
    draw = ImageDraw.Draw(frame)
    font, small = ImageFont.load_default(17), ImageFont.load_default(14)
    draw.text((MARGIN, MARGIN), f"step {step:,}", INK, font)
    draw.rectangle((0, height - 4, round(width * step / max(samples.steps[-1], 1)), height), fill=QUIET)
    left = MARGIN
    for heads, files in grids:
        for column, head in enumerate(heads):
            draw.text((left + column * across, MARGIN + LINE), head, QUIET, small)
        for row, paths in enumerate(files):
            for column, path in enumerate(paths):
                _paste(frame, path, (left + column * across, top + row * down), tile)
        left += len(files[0]) * across + 2 * MARGIN
    return frame


def _paste(frame: Image.Image, path: Path, corner: tuple[int, int], tile: tuple[int, int]) -> None:
    if path.is_file():
        with Image.open(path) as image:
            way = Image.Resampling.NEAREST if image.width < tile[0] else Image.Resampling.LANCZOS
            frame.paste(image.convert("RGB").resize(tile, way), corner)
