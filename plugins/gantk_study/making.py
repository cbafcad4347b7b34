"""`gantk study new`: writes a blinded page of real and made images for each reader, and the key in its own file."""

from __future__ import annotations

import base64
import json
import secrets
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

from gantk.data.resample import Resize
from gantk.errors import UserError, counted
from gantk.files import whole_folder, write_file
from gantk.formats.files import read, scans, stem_of
from gantk_study.answers import CHOICES

HERE = Path(__file__).parent
PAIRS = 60  # default number of pairs, if there are as many
REPEATS = 10  # one question in this many is repeated
ENDS = (0.5, 99.5)  # percentiles of a folder's values that become black and white, if files are not 8-bit
Cases = tuple[list[dict[str, Any]], np.ndarray]  # names of each pair; real and made images, (N, 2, H, W) uint8


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
    device: str | None = None,
    say: Callable[[str], None] = print,
) -> Path:
    """Write pages/reader-1.html ... and key.json into a new folder; returns the folder.

    The images are a run's held-out ones and their translations (from noise: as many samples), or those of two folders.
    All have one size and 256 grays, as finer ones would reveal images of 8-bit files by their steps. They are not
    compressed, as the length would reveal smooth ones. UserError if there are too few images or the folder exists.
    """
    if (run is None) != bool(real and fake) or bool(real) != bool(fake):
        raise UserError("what is to be judged is not clear", allowed="a RUN, or both --real DIR and --fake DIR")
    if kind not in CHOICES or (pairs is not None and pairs < 1) or readers < 1 or (seed or 0) < 0:
        what = f"a study of kind '{kind}' with {pairs} pairs, {readers} readers and seed {seed} cannot be made"
        raise UserError(what, allowed=f"{', '.join(CHOICES)}; 1 pair, 1 reader or more; a seed from 0")
    target = Path(out or (Path(run, "study", kind) if run and Path(run).is_dir() else "study"))
    if target.exists():
        what = f"'{target}' is there, and with a new key answers to the old pages would be lost"
        raise UserError(what, where="--out", remedy="name another folder")
    seed = secrets.randbits(64) if seed is None else seed
    rng = np.random.default_rng(seed)
    if real:
        cases, images, about = *of_folders(Path(real), Path(fake), pairs, rng, say), {}
    else:
        cases, images, about = of_run(run, pairs, to, split, device, rng, say)
    asked = {f"reader-{number + 1}": questions(kind, len(cases), number, seed) for number in range(readers)}
    key = json.dumps({"format": 1, "kind": kind, "seed": seed, **about, "cases": cases, "readers": asked}).encode()
    study = {"study": sha256(key).hexdigest(), "kind": kind, "target": about.get("target", "")}
    with whole_folder(target) as made:
        (made / "pages").mkdir()
        for name, order in asked.items():
            write_file(made / "pages" / f"{name}.html", page(study | {"reader": name}, order, images, rng).encode())
        write_file(made / "key.json", key)
    say(f"study    {target}: {counted(len(asked['reader-1']), 'question')} about {counted(len(cases), 'pair')}")
    say("pages    one for each reader, with images of patients in it; key.json says what is real, keep it from them")
    return target


def questions(kind: str, pairs: int, reader: int, seed: int) -> list[list[int]]:
    """A reader's questions in order: [case, which, whether it is a repeat].

    `which` is the side of the real image (2afc), else 1 for a made image and 0 for a real one. Sides are balanced for
    each reader and swapped for the next. Single images of a pair are in different halves; half of the pairs have the
    real one first, for the next reader the made one. Repeats are of the first third, in the last half, sides swapped.
    """
    turned = np.random.default_rng([seed, 0]).permutation(pairs) + reader
    rng = np.random.default_rng([seed, 1, reader])
    halves = [0] if kind == "2afc" else [0, 1]
    order = [[int(case), int(turned[case] + half) % 2, 0] for half in halves for case in rng.permutation(pairs)]
    count = len(order)
    for place in rng.permutation(max(1, count // 3))[: round(count / REPEATS)]:
        case, which, _ = order[place]  # repeats are inserted behind it
        again = [case, 1 - which if kind == "2afc" else which, 1]
        order.insert(int(rng.integers(-(-count // 2), len(order) + 1)), again)
    return order


def page(study: dict[str, Any], order: list[list[int]], images: np.ndarray, rng: np.random.Generator) -> str:
    """A reader's HTML: the images in random order, and the indices of the images of each question."""
    from gantk.report.build import render

    places = rng.permutation(2 * len(images))  # index in the page of image 2 * case + made
    flat = images.reshape(-1, *images.shape[2:])[np.argsort(places)]
    data = study | {"height": flat.shape[1], "width": flat.shape[2]}
    data["images"] = [base64.b64encode(image.tobytes()).decode() for image in flat]
    sides = 2 if study["kind"] == "2afc" else 1
    data["questions"] = [[int(places[2 * case + abs(which - n)]) for n in range(sides)] for case, which, _ in order]
    story = study | {"count": len(order), "data": data}
    return render("reader.html.j2", story, folders=[HERE], styles=("reader.css",), scripts=("reader.js",))


def chosen(patients: Sequence[str], pairs: int | None, rng: np.random.Generator, where: str) -> list[int]:
    """Indices of `pairs` random images, one of every patient before a second of any; UserError for too few."""
    pairs = pairs or max(1, min(PAIRS, len(patients)))
    if len(patients) < pairs:
        what = f"{where} has {counted(len(patients), 'image')} that can be judged, and {pairs} are asked for"
        raise UserError(what, where="--pairs", remedy=f"--pairs {len(patients)}" if patients else "name others")
    order, before = [*map(int, rng.permutation(len(patients)))], Counter()
    turns = [before.update([patients[place]]) or before[patients[place]] for place in order]
    return [order[n] for n in np.argsort(turns, kind="stable")[:pairs]]


def of_folders(real: Path, fake: Path, pairs: int | None, rng: Any, say: Callable[[str], None]) -> Cases:
    """Cases and images of two folders, paired by equal names if there are enough, else at random."""
    both = [{stem_of(scan.name): scan for scan in scans(folder)} for folder in (real, fake)]
    names = [sorted(both[0].keys() & both[1].keys())] * 2
    if len(names[0]) < (pairs or min(PAIRS, *map(len, both))):
        names = [list(map(str, rng.permutation(sorted(each)))) for each in both]
        say("note     the two folders share too few names: which made image stands beside which real one is drawn")
    places = chosen([""] * min(map(len, names)), pairs, rng, f"the smaller of {real} and {fake}")
    cases = [{"real": names[0][place], "made": names[1][place]} for place in places]
    planes, eight = [], True
    for scans_of, side in zip(both, ("real", "made"), strict=True):
        planes.append([])
        for case in cases:  # one whole volume at a time
            image = read(scans_of[case[side]])
            planes[-1].append(plane(image.pixels))
            eight &= image.dtype == np.uint8
    size = tuple(map(min, zip(*(each.shape for images in planes for each in images), strict=True)))
    sides = [np.stack([Resize(x.shape, size).forward(x[None])[0] for x in images]) for images in planes]
    return cases, np.stack([grays(x, *((0, 255) if eight else np.percentile(x, ENDS))) for x in sides], axis=1)


def of_run(run: Any, pairs: int | None, to: str | None, split: str, device: str | None, rng: Any, say: Any) -> tuple:
    """Cases and images of a run's split, as the networks process them, and the key's entries on the run."""
    import torch

    from gantk.machine.runtime import start
    from gantk.metrics.references import OTHER, windows
    from gantk.runs.folder import Run
    from gantk.runs.models import find_model, packed
    from gantk.runs.trained import Examples
    from gantk.training.assemble import assemble, restore
    from gantk.training.loop import inference_weights

    folder = Run.open(find_model(run, say))
    if packed(folder) is not None:
        what, remedy = f"'{run}' is a packed model, without images", "translate yours, then name --real and --fake"
        raise UserError(what, where="RUN", remedy=remedy)
    model = folder.recipe().check()
    runtime = start(device, model.train.precision, model.train.fast.channels_last)
    parts = assemble(model, runtime, folder.split())
    restore(parts, folder.chosen())
    method, data, scorer = parts.method, parts.data, parts.scorer
    directions = method.directions()
    targets = directions or method.reads[:1]
    letters = {name: x for name, x in zip(model.data.domains, data.letters, strict=True) if x in targets}
    name = to or [*letters][-1]
    if name not in letters:
        raise UserError(f"this run makes no '{name}'", where="--to", allowed=letters)
    letter = letters[name]
    known = data.pairs(split) if directions else ()
    reals = [pair[letter] for pair in known] or scorer.reals.records(split, letter)
    other = OTHER[letter] if directions else letter
    sources = [pair[other] for pair in known] or scorer.reals.records(split, other)
    count = min(len(reals), len(sources))
    places = chosen([record.subject or record.key for record in reals[:count]], pairs, rng, f"the {split} set")
    reals, sources = ([records[place] for place in places] for records in (reals, sources))
    with inference_weights(method, parts.engine), runtime.autocast():
        if directions:
            origin = scorer.reals.seen(sources)
            made = scorer.translate(origin, letter)
        else:
            origin = [record.label for record in reals] if method.conditional else []
            labels = torch.tensor([method.geometry.classes.index(label) for label in origin], device=runtime.device)
            made = method.sample(len(reals), int(rng.integers(2**31)), labels if origin else None)
    alone = [replace(one, position=None) for one in sources] if directions else ()  # so that none count as a volume
    examples = Examples(lambda: data, letter, runtime.device, origin, alone)
    made = scorer.posts(data.centre(made).to(runtime.device), examples)
    real = windows(scorer.reals.shown(reals), tuple(made.shape[2:]))
    shown = slice(None) if len(data.contrasts[letter]) == 1 else slice(1)  # colours, or the first contrast
    sides = [np.stack([plane(image[shown].float().cpu().numpy()) for image in images]) for images in (real, made)]
    cases = [{"patient": one.subject, "real": one.key} for one in reals]
    cases = [case | ({"made": one.key} if directions else {}) for case, one in zip(cases, sources, strict=True)]
    about = {"run": str(folder.path), "step": parts.engine.step, "split": split, "target": name}
    return cases, np.stack([grays(x, *data.range) for x in sides], axis=1), about


def plane(pixels: np.ndarray) -> np.ndarray:
    """(H, W) from (C, H, W), or from the middle slice of (C, D, H, W): the mean of the channels."""
    gray = np.asarray(pixels, dtype=np.float32).mean(0)
    return gray if gray.ndim == 2 else gray[len(gray) // 2]


def grays(images: np.ndarray, low: float, high: float) -> np.ndarray:
    """Scale to uint8: `low` becomes 0 and `high` 255."""
    return np.round((np.nan_to_num(images, nan=low) - low) / ((high - low) or 1) * 255).clip(0, 255).astype(np.uint8)
