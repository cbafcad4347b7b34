"""Figures for a paper: the test images as one picture for each direction, and the scores as a table
for a spreadsheet and for LaTeX. The pages draw the same pictures and scores.
"""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image, ImageDraw, ImageFont

from gantk.errors import UserError
from gantk.files import expect_file, make_folder, write_output
from gantk.report.patients.section import ShownImage
from gantk.report.pictures import error_picture, mean_error
from gantk.report.scores import summary_csv, summary_latex
from gantk.report.words import ARROW

TitledPictures = list[tuple[str, Image.Image]]
BRIGHTEST = 99.8  # percentile of the real image that is drawn in white
SIDE = 320  # pixels of the height of a picture
GAP = 8
ERROR = "Absolute error"
TITLE = 26  # pixels above a row


def picture_row(case: ShownImage, titles: Mapping[str, str], error: float) -> TitledPictures:
    """The pictures of a test image, by kind, under these titles, and the absolute error of each
    output, whose palest yellow is `error`. Generated and real images share one window.
    """
    truth = case.pictures["truth"].pixels
    row = []
    errors = []
    for kind, title in titles.items():
        pixels = case.pictures[kind].pixels
        row.append((title, _picture(pixels, pixels if kind == "input" else truth)))
        if kind.startswith("output"):
            head = ERROR if kind == "output" else f"{ERROR}, {title}"
            errors.append((head, error_picture(mean_error(pixels, truth), error)))
    return row + errors


def captioned_row(case: ShownImage, titles: Mapping[str, str], error: float) -> TitledPictures:
    """As `picture_row`; the titles also say whose image it is and the scale of the errors."""
    (first, picture), *others = picture_row(case, titles, error)
    row = [(f"{first}, {case.stored.patient}", picture)]
    for title, other in others:
        scale = f", 0 to {error:.3g}" if title.startswith(ERROR) else ""
        row.append((title + scale, other))
    return row


def _picture(pixels: np.ndarray, like: np.ndarray) -> Image.Image:
    """Pixels (C, H, W) as a picture, from the darkest value of `like` in black to its brightest in white."""
    low = float(like.min())
    high = float(np.percentile(like, BRIGHTEST))
    levels = np.clip((pixels - low) / ((high - low) or 1.0) * 255, 0, 255)
    channels = np.moveaxis(levels.round().astype(np.uint8), 0, -1)
    return Image.fromarray(channels.squeeze(-1) if len(pixels) == 1 else channels)


def draw_rows(
    rows: Sequence[TitledPictures],
    *,
    side: int = SIDE,
    paper: tuple[int, int, int] = (255, 255, 255),
    ink: tuple[int, int, int] = (0, 0, 0),
) -> Image.Image:
    """Pictures in rows, all `side` pixels high, each with its title above; a title that repeats is
    written once.
    """
    font = ImageFont.load_default(14)
    cell = max(round(side * each.width / each.height) for row in rows for _, each in row)
    columns = max(len(row) for row in rows)
    size = GAP + columns * (cell + GAP), GAP + len(rows) * (side + TITLE + GAP)
    sheet = Image.new("RGB", size, paper)
    draw = ImageDraw.Draw(sheet)
    for line, row in enumerate(rows):
        top = GAP + line * (side + TITLE + GAP)
        written = ""
        for column, (title, picture) in enumerate(row):
            left = GAP + column * (cell + GAP)
            if title != written:
                draw.text((left, top), title, fill=ink, font=font)
            written = title
            width = round(side * picture.width / picture.height)
            large = picture.convert("RGB").resize((width, side), Image.Resampling.BICUBIC)
            sheet.paste(large, (left, top + TITLE))
    return sheet


def write_figures(
    folder: str | Path,
    summary: pd.DataFrame,
    rows: Mapping[str, Sequence[TitledPictures]],
    overwrite: bool,
) -> Path:
    """Write scores.csv, scores.tex and a PNG of each direction's test images; returns the folder.

    `summary`: see `gantk.report.scores`. `rows`: by the label of a direction, its rows of pictures.
    UserError where there is neither.
    """
    if summary.empty and not rows:
        remedy = "score the run first: gantk eval RUN"
        raise UserError("there are no scores and no test images", where="--figures", remedy=remedy)

    contents = {
        "scores.csv": summary_csv(summary).encode(),
        "scores.tex": summary_latex(summary).encode(),
    }
    for label, of_direction in rows.items():
        png = io.BytesIO()
        draw_rows(of_direction).save(png, "png", optimize=True)
        name = re.sub(r"[^\w.-]+", "_", label.replace(ARROW, "_to_"))
        contents[f"{name}.png"] = png.getvalue()

    folder = make_folder(Path(folder), private=True)
    for name in contents:  # all are written or none
        expect_file(folder / name, "--figures", overwrite=overwrite)
    for name, content in contents.items():
        write_output(folder / name, content, private=True)
    return folder
