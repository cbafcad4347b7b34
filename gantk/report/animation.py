"""samples/training.gif: the same samples at every saved step, as one small film."""

from __future__ import annotations

import io
import math
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from gantk.files import write_file
from gantk.report.folder import Direction, Samples, read_run
from gantk.report.pictures import evenly

TILE = 192  # pixels: smaller pictures are enlarged by whole factors to at least this, larger ones reduced to it
GAP, MARGIN, LINE = 6, 14, 24  # pixels between tiles, around all, and per line of text
BACKGROUND, INK, QUIET = (16, 17, 20), (236, 234, 228), (150, 154, 162)
ATTEMPTS = ((4, 60), (3, 40), (2, 30), (1, 24), (1, 12))  # samples a direction, frames: the first that fits is written
MOST_BYTES = 4_000_000
FRAME_MS, LAST_MS = 350, 2500


@dataclass(frozen=True)
class Panel:
    """One direction's grid in the frame: `tiles` (columns, rows), its left edge, and its samples."""

    direction: Direction
    columns: tuple[str, ...]
    samples: int
    left: int

    @property
    def across(self) -> int:
        return len(self.columns) or math.ceil(math.sqrt(self.samples))

    @property
    def down(self) -> int:
        return self.samples if self.columns else math.ceil(self.samples / self.across)


def write_animation(run: Path) -> Path | None:
    """Writes samples/training.gif, rows of input | output | truth, the step above; None where nothing was sampled."""
    samples = read_run(Path(run)).samples
    if samples is None:
        return None
    for rows, frames in ATTEMPTS:
        content = _film(samples, rows, frames)
        if len(content) <= MOST_BYTES:
            break
    return write_file(samples.folder / "training.gif", content)


def _film(samples: Samples, rows: int, most_frames: int) -> bytes:
    side = _tile_size(samples)
    panels = _panels(samples, rows, side)
    steps = evenly(samples.steps, most_frames)
    frames = [_frame(samples, panels, step, side) for step in steps]
    both_ends = Image.new("RGB", (frames[0].width, 2 * frames[0].height))
    both_ends.paste(frames[0], (0, 0))
    both_ends.paste(frames[-1], (0, frames[0].height))
    palette = both_ends.quantize(256, method=Image.Quantize.MEDIANCUT)  # one for all, so that nothing flickers
    frames = [frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames]
    buffer = io.BytesIO()
    durations = [FRAME_MS] * (len(frames) - 1) + [LAST_MS]
    frames[0].save(buffer, "GIF", save_all=True, append_images=frames[1:], duration=durations, loop=0)
    return buffer.getvalue()


def _tile_size(samples: Samples) -> tuple[int, int]:
    """Width and height of a tile: whole multiples of a small picture, so that its pixels stay square and sharp."""
    files = [samples.output(d, 0, samples.steps[-1]) for d in samples.directions]
    with Image.open(next(path for path in files if path.is_file())) as image:
        width, height = image.size
    factor = math.ceil(TILE / max(width, height)) if max(width, height) < TILE else TILE / max(width, height)
    return max(1, round(width * factor)), max(1, round(height * factor))


def _panels(samples: Samples, rows: int, side: tuple[int, int]) -> list[Panel]:
    panels, left = [], MARGIN
    for direction in samples.directions:
        columns = ("input", "output", *(("truth",) if samples.has_truth else ())) if direction.source else ()
        count = min(direction.count, rows if columns else rows * rows)
        panels.append(Panel(direction, columns, max(count, 1), left))
        left += panels[-1].across * (side[0] + GAP) + 2 * MARGIN
    return panels


def _frame(samples: Samples, panels: list[Panel], step: int, side: tuple[int, int]) -> Image.Image:
    last = panels[-1]
    width = last.left + last.across * (side[0] + GAP) - GAP + MARGIN
    top = MARGIN + 2 * LINE
    height = top + max(panel.down for panel in panels) * (side[1] + GAP) - GAP + MARGIN + 4
    frame = Image.new("RGB", (width, height), BACKGROUND)
    draw = ImageDraw.Draw(frame)
    font, small = ImageFont.load_default(17), ImageFont.load_default(14)
    draw.text((MARGIN, MARGIN), f"step {step:,}", INK, font)
    done = step / max(samples.steps[-1], 1)
    draw.rectangle((0, height - 4, round(width * done), height), fill=QUIET)
    for panel in panels:
        names = {"input": panel.direction.source, "output": panel.direction.target, "truth": panel.direction.target}
        for place, column in enumerate(panel.columns):
            draw.text((panel.left + place * (side[0] + GAP), MARGIN + LINE), f"{column} {names[column]}", QUIET, small)
        for i in range(panel.samples):
            cells = enumerate(panel.columns) if panel.columns else [(i % panel.across, "output")]
            row = i if panel.columns else i // panel.across
            for place, column in cells:
                corner = panel.left + place * (side[0] + GAP), top + row * (side[1] + GAP)
                _paste(frame, _file(samples, panel.direction, column, i, step), corner, side)
    return frame


def _file(samples: Samples, direction: Direction, column: str, i: int, step: int) -> Path:
    if column == "output":
        return samples.output(direction, i, step)
    return samples.input(direction, i) if column == "input" else samples.truth(direction, i)


def _paste(frame: Image.Image, path: Path, corner: tuple[int, int], side: tuple[int, int]) -> None:
    if not path.is_file():
        return
    with Image.open(path) as image:
        enlarging = image.width < side[0]
        way = Image.Resampling.NEAREST if enlarging else Image.Resampling.LANCZOS
        frame.paste(image.convert("RGB").resize(side, way), corner)
