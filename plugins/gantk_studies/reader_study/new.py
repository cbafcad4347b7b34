"""`gantk study new`: writes a blinded page of real and generated images, and the key apart from it."""

from __future__ import annotations

import base64
import os
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from gantk.catalog.contrasts import contrast_in
from gantk.errors import UserError, count_noun
from gantk.files import whole_folder, write_file
from gantk.formats.files import read, scans, stem_of
from gantk.formats.image import Image, Scan
from gantk.method import OTHER
from gantk.prepare.module import size_image
from gantk.report.build import render
from gantk.terminal import Say

HERE = Path(__file__).parent
# percentiles of a folder's values that become black and white, if files are not 8-bit
ENDS = (0.5, 99.5)
KEY_FILE = "key.csv"
NAMES = ["real", "made"]  # of the key: the two images by name (of a translation its input)
Couples = list[tuple[str, str]]


def new_study(
    run: Any = None,
    *,
    real: str | Path | None = None,
    fake: str | Path | None = None,
    pairs: int = 60,
    to: str | None = None,
    split: str = "test",
    out: str | Path | None = None,
    overwrite: bool = False,
    device: str | None = None,
    say: Say = print,
) -> Path:
    """Write a reader study: page.html, for all readers, and key.csv, for nobody but its author.

    All images have one size and 256 gray levels and are not compressed, so that gray levels and
    file sizes do not reveal the generated ones. Real images stand as often on either side.

    Args:
        run: a run that translates. The images are its held-out ones and their translations.
        real: in place of `run`, a folder of real images.
        fake: in place of `run`, a folder of generated images, matched to real ones by file name.
        pairs: number of questions; all pairs if there are fewer.
        to: the domain to judge. Default: the second domain of the recipe.
        split: the set of the run's images: "test", "validation" or "train".
        out: the folder of the study. Default: RUN/study, or study.
        overwrite: whether to replace an earlier study, whose answers can then not be scored.
        device: as in `gantk.run`.
        say: called with each line of output.

    Returns:
        The folder of the study.

    Raises:
        UserError: there are no pairs of images.
    """
    if (run is None) == (real is None) or (real is None) != (fake is None):
        raise UserError(
            "the command does not name the images to judge",
            allowed="a RUN, or both --real DIR and --fake DIR",
        )
    target = Path(out or "study")
    if run is not None and not out and Path(run).is_dir():
        target = Path(run, "study")
    if os.path.lexists(target) and not overwrite:
        raise UserError(
            f"'{target}' exists; a new key would make answers to its page useless",
            where="--out",
            remedy="name another folder, or add --overwrite",
        )

    rng = np.random.default_rng()  # of a secret seed
    if run is None:
        names, images, contrast = _of_folders(Path(real), Path(fake), pairs, rng, say)
    else:
        names, images, contrast = _of_run(run, pairs, to, split, device, rng, say)

    key = pd.DataFrame(names, columns=NAMES)
    sides = rng.permutation(np.arange(len(key)) % 2)
    key.insert(0, "real_side", sides)  # 0 left or upper, 1 right or lower
    text = key.to_csv(index_label="question", lineterminator="\n").encode()
    images[sides == 1] = images[sides == 1, ::-1]
    with whole_folder(target, private=True) as folder:
        page = _page(sha256(text).hexdigest(), contrast, images)
        write_file(folder / "page.html", page.encode(), private=True)
        write_file(folder / KEY_FILE, text, private=True)

    say(f"study    {target / 'page.html'}: {count_noun(key, 'question')}, images of patients")
    say(f"key      {target / KEY_FILE} says which images are real: do not give it to readers")
    return target


def _page(study: str, contrast: str, images: np.ndarray) -> str:
    """The HTML of the page, of images (questions, 2, H, W), uint8; `study` is the key's SHA-256."""
    data = {
        "study": study,
        "height": images.shape[2],
        "width": images.shape[3],
        "images": [base64.b64encode(image.tobytes()).decode() for image in np.concatenate(images)],
    }
    files = {"styles": ("reader.css",), "scripts": ("reader.js",)}
    shown = {"count": len(images), "contrast": contrast, "data": data}
    return render("reader.html.j2", folders=[HERE], **files, **shown)


def _choose(patients: Sequence[str], pairs: int, rng: np.random.Generator) -> list[int]:
    """The places of at most `pairs` random pairs, one of every patient before a second of any;
    UserError where there are none.
    """
    if not patients:
        raise UserError("there are no pairs of images to judge", remedy="name other images")
    drawn = pd.Series(patients).iloc[rng.permutation(len(patients))]
    turns = drawn.groupby(drawn).cumcount().sort_values(kind="stable")
    return turns.index[:pairs].tolist()


def _by_name(folder: Path) -> dict[str, Scan]:
    """The images of a folder by name: without the contrast, which a translation has in its name,
    unless some differ in it alone.
    """
    found = scans(folder)
    stems = [stem_of(scan.name) for scan in found]
    names = [contrast_in(stem)[1] for stem in stems]
    if len(set(names)) < len(names):
        names = stems
    return dict(zip(names, found, strict=True))


def _of_folders(
    real: Path, fake: Path, pairs: int, rng: np.random.Generator, say: Say
) -> tuple[Couples, np.ndarray, str]:
    """Names of the pairs of two folders, for the key, and their images (N, 2, H, W): of equal names
    if there are any, else random.
    """
    reals = _by_name(real)
    fakes = _by_name(fake)
    couples = [(name, name) for name in sorted(reals.keys() & fakes.keys())]
    if not couples:
        drawn = (rng.permutation(sorted(each)).tolist() for each in (reals, fakes))
        couples = list(zip(*drawn, strict=False))
        say("note     the two folders share no file names: pairs are drawn at random")

    chosen = [couples[place] for place in _choose([""] * len(couples), pairs, rng)]
    planes = []
    eight_bit = True
    for name, other in chosen:
        for scan in (reals[name], fakes[other]):  # one volume at a time
            image = read(scan)
            planes.append(image.middle_plane.mean(0))
            eight_bit &= image.dtype == np.uint8

    size = tuple(np.min([each.shape for each in planes], axis=0).tolist())
    resized = [size_image(each[None], size)[0] for each in planes]
    images = np.stack(resized).reshape(-1, 2, *size)
    ends = (0, 255) if eight_bit else np.percentile(images, ENDS, axis=(0, 2, 3), keepdims=True)
    return chosen, _gray_levels(images, *ends), ""


def _of_run(
    run: Any,
    pairs: int,
    to: str | None,
    split: str,
    device: str | None,
    rng: np.random.Generator,
    say: Say,
) -> tuple[Couples, np.ndarray, str]:
    """Names of the pairs of a run's split, for the key, their images (N, 2, H, W) and contrast.
    Translations are what `gantk translate` writes.
    """
    from gantk import Model
    from gantk.metrics.references import RealImages
    from gantk.metrics.written import WrittenTranslations
    from gantk.runs.folder import RunFolder
    from gantk.runs.models import find_model

    model = Model.load(RunFolder.open(find_model(run, say)).path, device)
    if model.packed is not None:
        raise UserError(
            f"'{run}' is a packed model without images",
            where="RUN",
            remedy="write images with `gantk translate` or `sample`, and name --real and --fake",
        )

    letter = model.domain(to)
    source = OTHER[letter]
    data = model.training_data
    reals = RealImages(data, "cpu")
    couples = [(pair[letter], pair[source]) for pair in data.pairs(split)]
    if not couples:
        couples = [*zip(reals.records(split, letter), reals.records(split, source), strict=False)]

    patients = [record.subject or record.key for record, _ in couples]
    chosen = [couples[place] for place in _choose(patients, pairs, rng)]
    records, sources = zip(*chosen, strict=True)
    made = WrittenTranslations(model.recipe, data, model.method, model.runtime)(sources, letter)
    contrasts = model.frames[letter].targets
    first = model.frames[letter].part(to).start or 0
    # of several contrasts one is shown; or all colours
    channels = slice(first, first + 1) if len(contrasts) > 1 else slice(None)
    images = [
        [Image(np.asarray(each[channels])).middle_plane.mean(0) for each in couple]
        for couple in zip(reals.scored_images(records), made.images, strict=True)
    ]
    names = [(record.key, origin.key) for record, origin in chosen]
    return names, _gray_levels(np.array(images), *data.range), contrasts[first]


def _gray_levels(images: np.ndarray, low: Any, high: Any) -> np.ndarray:
    """Scale to uint8: `low` becomes 0 and `high` 255."""
    shares = (np.nan_to_num(images, nan=low) - low) / np.maximum(high - low, 1e-30)
    return np.round(255 * shares).clip(0, 255).astype(np.uint8)
