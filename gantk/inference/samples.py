"""Writes images that a model makes from noise to a folder."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from gantk.catalog.tables import csv_text
from gantk.errors import UserError, count_noun
from gantk.files import expect_replaceable, make_folder, write_output
from gantk.formats.files import write
from gantk.formats.image import Image
from gantk.inference.jobs import Output
from gantk.inference.model import Model
from gantk.inference.result_format import holds_range
from gantk.inference.scales import value_range
from gantk.inference.sidecar import ResultFile

KINDS = ("png", "tif", "nii.gz")
BYTES = (0, 255)  # the least and the largest value of a picture of 8 bits


def write_samples(
    model: Model,
    out: Path,
    n: int,
    seed: int,
    label: str | None,
    post: bool,
    *,
    overwrite: bool = False,
) -> list[Path]:
    """Write `n` images from noise into the folder `out`; returns the paths written.

    Pictures are PNG if that holds the training images' values, else TIFF with decimals; volumes are
    NIfTI. `labels.csv` lists the class of each file, if the method knows classes, and `post.json`
    what the post-steps measured. UserError where the folder holds samples of an earlier call, which
    `overwrite` deletes.
    """
    if n < 1:
        raise UserError(f"the number of images cannot be {n}", where="-n", allowed="1 or more")
    if model.run is None:
        raise UserError(
            "an exported file or an ensemble cannot generate images from noise",
            where="RUN",
            remedy="name one run",
        )

    earlier = [path for kind in KINDS for path in out.glob(f"sample-[0-9]*.{kind}")]
    lists = [out / "labels.csv", out / "post.json"]
    if earlier and not overwrite:
        raise UserError(
            f"'{out}' holds {count_noun(earlier, 'sample')} of an earlier call",
            where="--out",
            remedy="name another folder, or add --overwrite, which deletes them",
        )
    expect_replaceable(lists, overwrite, "--out")
    samples = [_as_image(model, pixels) for pixels in model.sample(n, seed, label, post)]
    make_folder(out)
    for path in earlier:
        path.unlink()
    paths = []
    for number, image in enumerate(samples):
        kind = "png" if image.dtype else "tif" if image.affine is None else "nii.gz"
        path = out / f"sample-{number:04d}.{kind}"
        shown = Output(path, model.recipe.data.domains[0])
        file = ResultFile(shown, image, {}, (), {"name": model.recipe.method.name})
        write(path, image, file.description(), overwrite=overwrite)
        paths.append(path)

    classes = model.classes_of_samples(n, label)
    if classes:
        rows = [(path.name, name) for path, name in zip(paths, classes, strict=True)]
        write_output(lists[0], csv_text(("path", "label"), rows).encode())
    measured = [record.dump() for record in model.post_records()] if post else []
    if measured:
        write_output(lists[1], json.dumps(measured, indent=1).encode())
    return paths


def _as_image(model: Model, pixels: np.ndarray) -> Image:
    """Generated pixels (C, *spatial) as an image: of 8 bits where these hold the training images."""
    if pixels.ndim == 4:
        return Image(pixels, affine=np.eye(4))
    known = value_range(model.intensity["image"], model.values.get("image"))
    if len(pixels) == 3 or holds_range(BYTES, *known):
        return Image(np.clip(np.rint(pixels), *BYTES), dtype=np.dtype(np.uint8))
    return Image(pixels)
