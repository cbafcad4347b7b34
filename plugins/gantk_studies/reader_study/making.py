"""`gantk study new`: writes a blinded page of real and generated images for each reader, and the
key in a separate file.
"""

from __future__ import annotations

import base64
import json
import os
import secrets
from collections import Counter
from collections.abc import Callable, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

from gantk.catalog.contrasts import contrast_in
from gantk.errors import UserError, count_noun
from gantk.files import expect_inside, make_folder, whole_folder, write_file
from gantk.formats.files import read, scans, stem_of
from gantk.formats.image import Scan
from gantk.method import OTHER
from gantk.prepare.module import size_image
from gantk.report.build import render, shows_left_and_right
from gantk_studies.reader_study.answers import CHOICES, HERE, Case, Key

DEFAULT_PAIRS = 60  # default number of pairs, if there are as many
REPEATS = 10  # one question in this many is repeated
# percentiles of a folder's values that become black and white, if files are not 8-bit
ENDS = (0.5, 99.5)


def new_study(
    run: Any = None,
    *,
    real: str | Path | None = None,
    fake: str | Path | None = None,
    kind: str = "2afc",
    pairs: int | None = None,
    readers: int = 3,
    to: str | None = None,
    split: str = "test",
    out: str | Path | None = None,
    seed: int | None = None,
    overwrite: bool = False,
    device: str | None = None,
    say: Callable[[str], None] = print,
) -> Path:
    """Write a reader study: the pages pages/reader-1.html and so on, and key.json.

    Args:
        run: a run folder. The images are its held-out ones and their translations, or, for images
            from noise, as many samples.
        real: in place of `run`, a folder of real images.
        fake: in place of `run`, a folder of generated images, matched to real ones by file name.
        kind: "2afc" (which of two images is real), "yesno" (is this image real) or "rating" (how
            real it looks, 1 to 5).
        pairs: number of real and of generated images. Default: 60, or all images if fewer.
        readers: number of readers, each with a page.
        to: the domain to judge. Default: the second domain of the recipe.
        split: the set of the run's images: "test", "validation" or "train".
        out: the folder of the study. Default: RUN/study/KIND, or study.
        seed: the seed of the images and of their order. Default: a secret seed, stored in key.json.
        overwrite: whether to replace an earlier study, whose answers can then not be scored.
        device: as in `gantk.run`.
        say: called with each line of output.

    Returns:
        The folder of the study.

    Raises:
        UserError: there are too few images.

    All images have one size and 256 gray levels and are not compressed. Gray levels or file sizes
    therefore do not reveal the generated images.
    """
    folders = [folder for folder in (real, fake) if folder]
    if len(folders) != (2 if run is None else 0):
        problem = "the command does not name the images to judge"
        raise UserError(problem, allowed="a RUN, or both --real DIR and --fake DIR")

    few = readers < 1 or (pairs is not None and pairs < 1)
    if kind not in CHOICES or few or (seed or 0) < 0:
        what = (
            f"a study of kind '{kind}' with {pairs} pairs, {readers} readers and seed {seed} is not"
            " possible"
        )
        allowed = f"{', '.join(CHOICES)}; 1 or more pairs and readers; a seed of 0 or more"
        raise UserError(what, allowed=allowed)

    target = _new_target(run, kind, out, overwrite)
    if seed is None:
        seed = secrets.randbits(64)

    rng = np.random.default_rng(seed)
    key = Key(kind=kind, seed=seed, cases=[], readers={})
    if folders:
        images = of_folders(key, Path(real), Path(fake), pairs, rng, say)
    else:
        images = of_run(key, run, pairs, to, split, device, rng, say)

    orders = key.readers
    for number in range(readers):
        orders[f"reader-{number + 1}"] = questions(kind, len(key.cases), number, seed)

    key_bytes = json.dumps(key.dump()).encode()
    digest = sha256(key_bytes).hexdigest()
    with whole_folder(target, private=True) as folder:
        make_folder(folder / "pages", private=True)
        for name in orders:
            html = page(key, digest, name, images, rng)
            write_file(folder / "pages" / f"{name}.html", html.encode(), private=True)
        write_file(folder / "key.json", key_bytes, private=True)
        if not overwrite:
            _claim(target)

    asked = count_noun(orders["reader-1"], "question")
    say(f"study    {target}: {asked} about {count_noun(key.cases, 'pair')}")
    say(
        "pages    one per reader, with images of patients; key.json states which images are real:"
        " do not give it to readers"
    )
    return target


def _new_target(run: Any, kind: str, out: str | Path | None, overwrite: bool) -> Path:
    """The folder of a new study; UserError where it is there already, unless `overwrite`."""
    if out:
        target = Path(out)
    elif run and Path(run).is_dir():
        target = expect_inside(Path(run), Path(run, "study", kind))
    else:
        target = Path("study")

    if os.path.lexists(target) and not overwrite:
        raise _exists(target)
    return target


def _claim(target: Path) -> None:
    """Create the folder, which the finished study then replaces; UserError where another process
    was faster.
    """
    try:
        make_folder(target, new=True)
    except FileExistsError:
        raise _exists(target) from None


def _exists(target: Path) -> UserError:
    what = f"'{target}' exists; a new key would make answers to its pages useless"
    return UserError(what, where="--out", remedy="name another folder, or add --overwrite")


def questions(kind: str, pairs: int, reader: int, seed: int) -> list[list[int]]:
    """A reader's questions in order: [case, which, whether it is a repeat].

    `which` is the side of the real image (2afc), else 1 for a made image and 0 for a real one.
    Sides are balanced for each reader and swapped for the next. Single images of a pair are in
    different halves; half of the pairs have the real one first, for the next reader the made one.
    Repeats are of the first third, in the last half, sides swapped.
    """
    turned = np.random.default_rng([seed, 0]).permutation(pairs) + reader
    rng = np.random.default_rng([seed, 1, reader])
    order = []
    for half in [0] if kind == "2afc" else [0, 1]:
        for case in rng.permutation(pairs):
            order.append([int(case), int(turned[case] + half) % 2, 0])

    count = len(order)
    for place in rng.permutation(max(1, count // 3))[: round(count / REPEATS)]:
        case, which, _ = order[place]  # repeats are inserted behind it
        if kind == "2afc":
            which = 1 - which
        order.insert(int(rng.integers(-(-count // 2), len(order) + 1)), [case, which, 1])

    return order


def page(key: Key, digest: str, reader: str, images: np.ndarray, rng: np.random.Generator) -> str:
    """A reader's HTML: images in random order, and the indices of those of each question."""
    places = rng.permutation(2 * len(images))  # index in the page of image 2 * case + made
    flat = images.reshape(-1, *images.shape[2:])[np.argsort(places)]
    asked = []
    for case, which, _ in key.readers[reader]:
        shown = [which, 1 - which] if key.kind == "2afc" else [which]
        asked.append([int(places[2 * case + made]) for made in shown])

    about = {"study": digest, "kind": key.kind, "target": key.target or ""}
    about |= {"oriented": key.oriented, "reader": reader}
    data = about | {
        "height": flat.shape[1],
        "width": flat.shape[2],
        "images": [base64.b64encode(image.tobytes()).decode() for image in flat],
        "questions": asked,
    }
    return render(
        "reader.html.j2",
        folders=[HERE],
        styles=("reader.css",),
        scripts=("reader.js",),
        count=len(asked),
        data=data,
        **about,
    )


def choose_couples(
    couples: Sequence, patients: Sequence[str], pairs: int | None, rng: Any, where: str
) -> list[Any]:
    """`pairs` random couples of images, one of every patient before a second of any; UserError for
    too few.
    """
    pairs = pairs or max(1, min(DEFAULT_PAIRS, len(patients)))
    if len(patients) < pairs:
        held = count_noun(patients, "image")
        what = f"{where} has only {held} to judge, but the study needs {pairs}"
        remedy = f"set --pairs {len(patients)}" if patients else "name other images"
        raise UserError(what, where="--pairs", remedy=remedy)

    order = rng.permutation(len(patients))
    images_before = Counter()
    turns = []  # how many images of the same patient stand before each
    for place in order:
        patient = patients[place]
        turns.append(images_before[patient])
        images_before[patient] += 1

    return [couples[order[n]] for n in np.argsort(turns, kind="stable")[:pairs]]


def _by_name(folder: Path) -> dict[str, Scan]:
    """The images of a folder by name: without the contrast, which a translation has in its name, unless
    some differ in it alone.
    """
    found = scans(folder)
    stems = [stem_of(scan.name) for scan in found]
    names = [contrast_in(stem, set())[1] for stem in stems]
    if len(set(names)) < len(names):
        names = stems
    return dict(zip(names, found, strict=True))


def of_folders(
    key: Key, real: Path, fake: Path, pairs: int | None, rng: Any, say: Callable[[str], None]
) -> np.ndarray:
    """Add pairs of two folders to the key and return their images (N, 2, H, W): of equal names if
    there are enough, else random.
    """
    reals = _by_name(real)
    fakes = _by_name(fake)
    shared = sorted(reals.keys() & fakes.keys())
    couples = [(name, name) for name in shared]
    if len(shared) < (pairs or min(DEFAULT_PAIRS, len(reals), len(fakes))):
        real_names = map(str, rng.permutation(sorted(reals)))
        fake_names = map(str, rng.permutation(sorted(fakes)))
        couples = list(zip(real_names, fake_names, strict=False))
        say(
            "note     the two folders share too few file names: pairs of a generated and a real"
            " image are drawn at random"
        )

    where = f"the smaller of the folders {real} and {fake}"
    couples = choose_couples(couples, [""] * len(couples), pairs, rng, where)
    planes = []
    eight_bit = True
    key.oriented = True
    for name, other in couples:
        for scan in (reals[name], fakes[other]):  # one volume at a time
            image = read(scan)
            planes.append(plane(image.pixels))
            eight_bit &= image.dtype == np.uint8
            key.oriented &= image.states_orientation and image.dims == 3

    size = tuple(np.min([each.shape for each in planes], axis=0).tolist())
    resized = [size_image(each[None], size)[0] for each in planes]
    images = np.stack(resized).reshape(-1, 2, *size)
    ends = (0, 255) if eight_bit else np.percentile(images, ENDS, axis=(0, 2, 3), keepdims=True)
    key.cases = [Case(real=name, made=other) for name, other in couples]
    return grays(images, *ends)


def of_run(
    key: Key,
    run: Any,
    pairs: int | None,
    to: str | None,
    split: str,
    device: str | None,
    rng: Any,
    say: Any,
) -> np.ndarray:
    """Add pairs of a run's split to the key and return their images. Translations are what `gantk
    translate` writes.
    """
    from gantk import RunRecord, Translator
    from gantk.metrics.references import RealImages, windows
    from gantk.metrics.written import WrittenTranslations
    from gantk.runs.folder import RunFolder
    from gantk.runs.models import data_of, find_model

    model = Translator.load(RunFolder.open(find_model(run, say)).path, device)
    if model.packed is not None:
        what = f"'{run}' is a packed model without images"
        raise UserError(
            what, where="RUN", remedy="translate your images and name them with --real and --fake"
        )

    data = data_of(model.run, model.recipe.data, type(model.method))
    reals = RealImages(data, "cpu")
    letter, source = _letters(model, to)
    couples = [(pair[letter], pair[source]) for pair in data.pairs(split)]
    if not couples:
        couples = [*zip(reals.records(split, letter), reals.records(split, source), strict=False)]

    patients = [record.subject or record.key for record, _ in couples]
    couples = choose_couples(couples, patients, pairs, rng, f"the {split} set")
    records, sources = zip(*couples, strict=True)
    if letter == source:
        made = _sample_each(model, letter, records, rng)
    else:
        written = WrittenTranslations(model.recipe, data, model.method, model.runtime)
        made = written(sources, None, letter).images

    real = windows(reals.scored_images(records), tuple(made[0].shape[1:]))
    names = data.contrasts[letter]
    first = 0
    if letter != source:
        names = model.frames[letter].targets
        first = model.frames[letter].part(to).start or 0
    # of several contrasts one is shown; or all colours
    channels = slice(first, first + 1) if len(names) > 1 else slice(None)
    images = []
    for one, other in zip(real, made, strict=True):
        images.append([plane(one[channels]), plane(other[channels])])

    for record, origin in couples:
        case = Case(patient=record.subject, real=record.key)
        if letter != source:
            case.made = origin.key
        key.cases.append(case)

    key.run = str(model.run.path)
    key.step = int(model.checkpoint.name[5:])
    key.split = split
    key.target = names[first]
    key.oriented = shows_left_and_right(RunRecord(model.run.path))
    return grays(np.array(images), *data.range)


def _letters(model: Any, to: str | None) -> tuple[str, str]:
    """The domain that is shown, and the one that its images are made from; the same if they are
    made from noise.
    """
    directions = model.method.directions()
    if directions:
        letter = model.domain(to)
        return letter, OTHER[letter]
    if to not in (None, model.recipe.data.domains[0]):
        model.domain(to)  # raises

    letter = model.method.reads[0]
    return letter, letter


def _sample_each(model: Any, letter: str, records: Sequence[Any], rng: Any) -> list[Any]:
    """Images from noise, of the classes of the records where the method knows classes."""
    made = []
    for record in records:
        label = record.label if model.method.conditional else None
        image = model.sample(1, int(rng.integers(2**31)), label)[0]
        made.append(model.intensity[letter].forward(image))
    return made


def plane(pixels: np.ndarray) -> np.ndarray:
    """(H, W) from (C, H, W), or from the middle slice of (C, D, H, W): the mean of the channels."""
    gray = np.asarray(pixels, dtype=np.float32).mean(0)
    return gray if gray.ndim == 2 else gray[len(gray) // 2]


def grays(images: np.ndarray, low: Any, high: Any) -> np.ndarray:
    """Scale to uint8: `low` becomes 0 and `high` 255."""
    shares = (np.nan_to_num(images, nan=low) - low) / np.maximum(high - low, 1e-30)
    return np.round(255 * shares).clip(0, 255).astype(np.uint8)
