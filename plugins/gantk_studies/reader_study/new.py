"""`gantk study new`: writes a blinded page of real and generated images, and the key apart from it."""

from __future__ import annotations

import base64
import os
import secrets
from collections import Counter
from collections.abc import Callable, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from gantk.catalog.contrasts import contrast_in
from gantk.catalog.tables import csv_text
from gantk.errors import UserError, count_noun
from gantk.files import expect_inside, make_folder, whole_folder, write_file
from gantk.formats.files import read, scans, stem_of
from gantk.formats.image import Scan
from gantk.method import OTHER
from gantk.prepare.module import size_image
from gantk.report.build import render

HERE = Path(__file__).parent
MAX_DEFAULT_PAIRS = 60
# percentiles of a folder's values that become black and white, if files are not 8-bit
ENDS = (0.5, 99.5)
KEY_FILE = "key.csv"


class Case(NamedTuple):
    """A question: two images by their names, and the side of the real one. A line of the key."""

    question: int
    real_side: int  # 0 left or upper, 1 right or lower
    real: str
    made: str  # of a translation its input
    patient: str
    split: str  # of the run's images: "train", "validation" or "test"; "" of two folders


def new_study(
    run: Any = None,
    *,
    real: str | Path | None = None,
    fake: str | Path | None = None,
    pairs: int | None = None,
    to: str | None = None,
    split: str = "test",
    out: str | Path | None = None,
    seed: int | None = None,
    overwrite: bool = False,
    device: str | None = None,
    say: Callable[[str], None] = print,
) -> Path:
    """Write a reader study: page.html, for all readers, and key.csv, for nobody but its author.

    All images have one size and 256 gray levels and are not compressed, so that gray levels and
    file sizes do not reveal the generated ones. Real images stand as often on either side.

    Args:
        run: a run that translates. The images are its held-out ones and their translations.
        real: in place of `run`, a folder of real images.
        fake: in place of `run`, a folder of generated images, matched to real ones by file name.
        pairs: number of questions. Default: 60, or all pairs if fewer.
        to: the domain to judge. Default: the second domain of the recipe.
        split: the set of the run's images: "test", "validation" or "train".
        out: the folder of the study. Default: RUN/study, or study.
        seed: the seed of the images and of their order. Default: a secret seed.
        overwrite: whether to replace an earlier study, whose answers can then not be scored.
        device: as in `gantk.run`.
        say: called with each line of output.

    Returns:
        The folder of the study.

    Raises:
        UserError: there are too few images.
    """
    target = _folder_of(run, real, fake, pairs, out)
    if os.path.lexists(target) and not overwrite:
        raise _exists(target)

    rng = np.random.default_rng(secrets.randbits(64) if seed is None else seed)
    if run is None:
        names, images, contrast = _of_folders(Path(real), Path(fake), pairs, rng, say)
    else:
        names, images, contrast = _of_run(run, pairs, to, split, device, rng, say)

    sides = rng.permutation(np.arange(len(names)) % 2).tolist()
    of_side = zip(sides, names, strict=True)
    cases = [Case(place, side, *name) for place, (side, name) in enumerate(of_side)]
    key = csv_text(Case._fields, cases).encode()
    shown = [pair[::-1] if side else pair for side, pair in zip(sides, images, strict=True)]
    with whole_folder(target, private=True) as folder:
        page = _page(sha256(key).hexdigest(), contrast, np.array(shown))
        write_file(folder / "page.html", page.encode(), private=True)
        write_file(folder / KEY_FILE, key, private=True)
        if not overwrite:  # another process may have been faster
            try:
                make_folder(target, new=True)
            except FileExistsError:
                raise _exists(target) from None

    say(f"study    {target / 'page.html'}: {count_noun(cases, 'question')}, images of patients")
    say(f"key      {target / KEY_FILE} says which images are real: do not give it to readers")
    return target


def _folder_of(run: Any, real: Any, fake: Any, pairs: int | None, out: Any) -> Path:
    """The folder of a study; UserError where it is not said what to judge."""
    if (run is None) == (real is None) or (real is None) != (fake is None):
        problem = "the command does not name the images to judge"
        raise UserError(problem, allowed="a RUN, or both --real DIR and --fake DIR")
    if pairs is not None and pairs < 1:
        raise UserError(f"a study of {pairs} pairs is not possible", where="--pairs")
    if run is not None and not out and Path(run).is_dir():
        return Path(expect_inside(Path(run), Path(run, "study")))
    return Path(out or "study")


def _exists(target: Path) -> UserError:
    what = f"'{target}' exists; a new key would make answers to its page useless"
    return UserError(what, where="--out", remedy="name another folder, or add --overwrite")


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


def _choose(patients: Sequence[str], pairs: int | None, rng: Any, where: str) -> list[int]:
    """The places of `pairs` random pairs, one of every patient before a second of any; UserError
    for too few.
    """
    pairs = pairs or max(1, min(MAX_DEFAULT_PAIRS, len(patients)))
    if len(patients) < pairs:
        what = f"{where} has only {count_noun(patients, 'pair')}, but the study needs {pairs}"
        remedy = f"set --pairs {len(patients)}" if patients else "name other images"
        raise UserError(what, where="--pairs", remedy=remedy)

    order = rng.permutation(len(patients)).tolist()
    seen = Counter()
    turns = []  # how many pairs of the same patient stand before each
    for place in order:
        turns.append(seen[patients[place]])
        seen[patients[place]] += 1
    return [order[n] for n in np.argsort(turns, kind="stable")[:pairs]]


def _by_name(folder: Path) -> dict[str, Scan]:
    """The images of a folder by name: without the contrast, which a translation has in its name,
    unless some differ in it alone.
    """
    found = scans(folder)
    stems = [stem_of(scan.name) for scan in found]
    names = [contrast_in(stem, set())[1] for stem in stems]
    if len(set(names)) < len(names):
        names = stems
    return dict(zip(names, found, strict=True))


def _of_folders(
    real: Path, fake: Path, pairs: int | None, rng: Any, say: Callable[[str], None]
) -> tuple[list[tuple[str, ...]], np.ndarray, str]:
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

    chosen = _choose([""] * len(couples), pairs, rng, f"'{real}' and '{fake}'")
    planes = []
    eight_bit = True
    for name, other in (couples[place] for place in chosen):
        for scan in (reals[name], fakes[other]):  # one volume at a time
            image = read(scan)
            planes.append(_middle_plane(image.pixels))
            eight_bit &= image.dtype == np.uint8

    size = tuple(np.min([each.shape for each in planes], axis=0).tolist())
    resized = [size_image(each[None], size)[0] for each in planes]
    images = np.stack(resized).reshape(-1, 2, *size)
    ends = (0, 255) if eight_bit else np.percentile(images, ENDS, axis=(0, 2, 3), keepdims=True)
    names = [(*couples[place], "", "") for place in chosen]
    return names, _gray_levels(images, *ends), ""


def _of_run(
    run: Any,
    pairs: int | None,
    to: str | None,
    split: str,
    device: str | None,
    rng: Any,
    say: Callable[[str], None],
) -> tuple[list[tuple[str, ...]], np.ndarray, str]:
    """Names of the pairs of a run's split, for the key, their images (N, 2, H, W) and contrast.
    Translations are what `gantk translate` writes.
    """
    from gantk import Translator
    from gantk.metrics.references import RealImages, windows
    from gantk.metrics.written import WrittenTranslations
    from gantk.runs.folder import RunFolder
    from gantk.runs.models import data_of, find_model

    model = Translator.load(RunFolder.open(find_model(run, say)).path, device)
    if model.packed is not None or not model.method.directions():
        what = f"'{run}' is a packed model without images"
        if model.packed is None:
            what = f"'{model.recipe.method.name}' makes images from noise, not translations"
        remedy = "write images with `gantk translate` or `sample`, and name --real and --fake"
        raise UserError(what, where="RUN", remedy=remedy)

    data = data_of(model.run, model.recipe.data, type(model.method))
    reals = RealImages(data, "cpu")
    letter = model.domain(to)
    source = OTHER[letter]
    couples = [(pair[letter], pair[source]) for pair in data.pairs(split)]
    if not couples:
        couples = [*zip(reals.records(split, letter), reals.records(split, source), strict=False)]

    patients = [record.subject or record.key for record, _ in couples]
    chosen = _choose(patients, pairs, rng, f"the {split} set")
    records, sources = zip(*(couples[place] for place in chosen), strict=True)
    written = WrittenTranslations(model.recipe, data, model.method, model.runtime)
    made = written(sources, None, letter).images
    real = windows(reals.scored_images(records), tuple(made[0].shape[1:]))
    contrasts = model.frames[letter].targets
    first = model.frames[letter].part(to).start or 0
    # of several contrasts one is shown; or all colours
    channels = slice(first, first + 1) if len(contrasts) > 1 else slice(None)
    images = [
        [_middle_plane(each[channels]) for each in couple]
        for couple in zip(real, made, strict=True)
    ]
    names = [
        (record.key, origin.key, record.subject or "", split)
        for record, origin in zip(records, sources, strict=True)
    ]
    return names, _gray_levels(np.array(images), *data.range), contrasts[first]


def _middle_plane(pixels: Any) -> np.ndarray:
    """(H, W) from (C, H, W), or from the middle slice of (C, D, H, W): the mean of the channels."""
    gray = np.asarray(pixels, dtype=np.float32).mean(0)
    return gray if gray.ndim == 2 else gray[len(gray) // 2]


def _gray_levels(images: np.ndarray, low: Any, high: Any) -> np.ndarray:
    """Scale to uint8: `low` becomes 0 and `high` 255."""
    shares = (np.nan_to_num(images, nan=low) - low) / np.maximum(high - low, 1e-30)
    return np.round(255 * shares).clip(0, 255).astype(np.uint8)
