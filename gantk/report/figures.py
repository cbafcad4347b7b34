"""Figures for a paper: test images as one picture for each direction. The pages draw the same pictures."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np
from PIL import Image, ImageDraw, ImageFont, ImageOps

from gantk.data.masks import outline
from gantk.formats.pictures import picture_of
from gantk.report.pictures import colour_with_inferno, error_picture, mean_error

# by kind, (C, H, W) each, as they are shown: "input", "truth" if it is known, "output"; several outputs;
# and the mask of the LESION, if there is one
Pictures = Mapping[str, np.ndarray]
TitledPictures = list[tuple[str, Image.Image]]
BRIGHTEST = 99.8  # percentile of a real image that is drawn in white, of errors in yellow
DPI = 300
WIDTH_MM = 180  # of a figure over two columns of a page
TEXT_POINTS = 7
GAP = 12  # pixels between pictures
LESION = "lesion"
PAPER = "white"
INK = "black"
ERROR = "Absolute error"


def picture_row(pictures: Pictures, titles: Mapping[str, str], largest: float) -> TitledPictures:
    """The pictures of a test image, by kind, under these titles, and the absolute error of each
    output, whose palest yellow is `largest`. Generated and real images share one window. All have the
    outline of the lesion, if there is a mask.
    """
    truth = pictures.get("truth")
    of_input, of_others = windows_of(pictures)
    row = []
    errors = []
    for kind, pixels in pictures.items():
        if kind == LESION:
            continue
        title = titles[kind]
        row.append((title, picture_of(pixels, *(of_input if kind == "input" else of_others))))
        if kind.startswith("output") and truth is not None:
            head = ERROR if kind == "output" else f"{ERROR}, {title}"
            errors.append((head, error_picture(mean_error(pixels, truth), largest)))
    row += errors
    if LESION in pictures:
        row = [(title, outline(picture, pictures[LESION])) for title, picture in row]
    return row


def outputs_of(pictures: Pictures) -> list[np.ndarray]:
    """The outputs of all systems in a test image."""
    return [pixels for kind, pixels in pictures.items() if kind.startswith("output")]


def largest_error(pictures: Pictures) -> float:
    """The largest absolute error of the outputs in a test image, apart from a few pixels."""
    errors = [mean_error(pixels, pictures["truth"]) for pixels in outputs_of(pictures)]
    return float(np.percentile(errors, BRIGHTEST)) or 1.0


def windows_of(pictures: Pictures) -> list[tuple[float, float]]:
    """The windows of the input and of the others: that of the real image, of all outputs if it is not
    known.
    """
    target = pictures.get("truth")
    if target is None:
        target = np.concatenate(outputs_of(pictures))
    return [window(pictures["input"]), window(target)]


def window(pixels: np.ndarray) -> tuple[float, float]:
    """The values that are drawn in black and in white."""
    return float(pixels.min()), float(np.percentile(pixels, BRIGHTEST))


def draw_figure(rows: Sequence[tuple[str, TitledPictures]], largest: str) -> Image.Image:
    """Patients, each with pictures, as one picture of at most WIDTH_MM at DPI: titles at the top, the
    patient above each row, and on the right the scale of the errors from 0 to the `largest`, if any.
    """
    font = ImageFont.load_default(round(TEXT_POINTS * DPI / 72))
    line = round(1.25 * TEXT_POINTS * DPI / 72)
    width = round(WIDTH_MM * DPI / 25.4)
    titles = [title for title, _ in rows[0][1]]
    scale = 5 * line if largest else 0
    left = min(width - scale, len(titles) * width // 4)  # of the scale; four rows fit on a page
    cell = left // len(titles)
    side = cell - GAP
    letters = round(side / font.getlength("a"))
    wrapped = [textwrap.wrap(title, letters) for title in titles]
    top = line * max(map(len, wrapped))
    shapes = [each.height / each.width for _, pictures in rows for _, each in pictures]
    height = round(side * max(shapes))
    sheet = Image.new("RGB", (left + scale, top + len(rows) * (line + height + GAP)), PAPER)
    write = partial(ImageDraw.Draw(sheet).text, fill=INK, font=font)
    for column, lines in enumerate(wrapped):
        write((column * cell, 0), "\n".join(lines))

    for number, (patient, pictures) in enumerate(rows):
        upper = top + number * (line + height + GAP)
        write((0, upper), patient)
        for column, (_, picture) in enumerate(pictures):
            large = ImageOps.contain(picture.convert("RGB"), (side, height))  # bicubic
            sheet.paste(large, (column * cell, upper + line))

    if not largest:
        return sheet
    upper = top + line
    levels = np.arange(256, dtype=np.uint8)[::-1, None]
    bar = colour_with_inferno(levels).convert("RGB").resize((line, height - 2 * line))
    write((left, upper), largest)
    sheet.paste(bar, (left, upper + line))
    write((left, upper + height - line), "0")
    return sheet
