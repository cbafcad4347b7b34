"""Draws what `missing_contrasts.py` made of people, beside what was there and the truth.

    python benchmarks/missing_pictures.py MADE PEOPLE OUT.png ROW ...

MADE is the folder `--out` of `missing_contrasts.py`. A ROW is PERSON:CASE:SLICE, such as
`BraTS2021_00006:T1+T1CE+T2_to_FLAIR:80`, with the number of an axial slice from below. Each row shows
the contrasts that were there, what was made, the truth and the absolute error. Each image is divided
by the 99.5th percentile of its volume; the error is shown from 0 to 0.5 of this.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
from missing_contrasts import Person, people, truth_and_made

BRIGHTEST_ERROR = 0.5
INCHES = 1.5  # a side of one image
MARGIN = 10  # pixels kept around the head


@dataclass(frozen=True)
class Row:
    """The images of one row, each (H, W) from 0 to 1, by title."""

    images: dict[str, np.ndarray]
    error: np.ndarray


def slice_of(volume: np.ndarray, number: int) -> np.ndarray:
    """An axial slice of a volume (right, anterior, superior): front of the head at the top."""
    return np.flipud(volume[:, :, number].T)


def row_of(made: Path, person: Person, case: str, number: int) -> Row:
    """What was there, made and true of a person in a case."""
    given, to = case.split("_to_")
    true = person.scans[to]
    truth, found = truth_and_made(true, made / person.name / f"{case}.nii.gz")
    volumes = {}
    for name in given.split("+"):
        volumes[name] = truth_and_made(true, person.scans[name])[1]
    volumes[f"{to}, made"] = found
    volumes[f"{to}, true"] = truth

    box = head_box(slice_of(truth, number))
    images = {title: slice_of(volume, number)[box] for title, volume in volumes.items()}
    return Row(images, slice_of(np.abs(found - truth), number)[box])


def head_box(image: np.ndarray) -> tuple[slice, slice]:
    """The rows and columns of an image that show the head, with a margin."""
    rows, columns = np.nonzero(image > 0.02)
    return (
        slice(max(rows.min() - MARGIN, 0), rows.max() + MARGIN),
        slice(max(columns.min() - MARGIN, 0), columns.max() + MARGIN),
    )


def draw(rows: list[Row], out: Path) -> None:
    """Write a picture with a line for each row; lines with fewer images are filled from the right."""
    columns = 1 + max(len(row.images) for row in rows)
    size = (INCHES * columns, 1.25 * INCHES * len(rows))
    figure, axes = plt.subplots(len(rows), columns, figsize=size, squeeze=False)
    for line, row in zip(axes, rows, strict=True):
        free = columns - 1 - len(row.images)
        for place in line:
            place.axis("off")
        for place, (title, image) in zip(line[free:], row.images.items(), strict=False):
            place.imshow(image, cmap="gray", vmin=0, vmax=1)
            place.set_title(title, fontsize=8)
        line[-1].imshow(row.error, cmap="inferno", vmin=0, vmax=BRIGHTEST_ERROR)
        line[-1].set_title("error", fontsize=8)

    figure.subplots_adjust(left=0, right=1, bottom=0, top=0.97, wspace=0.03, hspace=0.12)
    figure.savefig(out, dpi=110, facecolor="white")


def main(options: argparse.Namespace) -> None:
    """Draw the rows that are asked for."""
    known = {one.name: one for one in people(options.people)}
    rows = []
    for row in options.rows:
        name, case, number = row.rsplit(":", 2)
        rows.append(row_of(options.made, known[name], case, int(number)))
    draw(rows, options.out)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("made", type=Path)
    parser.add_argument("people", type=Path, help="a folder for each person")
    parser.add_argument("out", type=Path)
    parser.add_argument("rows", nargs="+", metavar="ROW")
    main(parser.parse_args())
