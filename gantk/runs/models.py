"""Finds trained models by path, by the name of an installed model or by address, and checks packed
models.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from collections.abc import Callable, Collection, Iterable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from gantk.data.split_json import RecordedSets, RecordedSplit
from gantk.errors import UserError, did_you_mean, doing
from gantk.files import (
    MAX_TENSORS_BYTES,
    follow_links,
    make_folder,
    read_file,
    regular_file,
    sha256_of,
)
from gantk.guest import Say
from gantk.plugin.loader import load, registry
from gantk.recipe.load import files_of
from gantk.runs.schemas import WEIGHTS, Packing, SeenFiles, read

if TYPE_CHECKING:  # these import torch, which translating a .onnx file does not need
    from gantk.data.dataset import Data
    from gantk.recipe.tables import DataTable
    from gantk.runs.folder import RunFolder

CARD = "card.md"  # of a packed model: training data, scores and limits
SCORE_OTHERS = "score it on your own images: gantk eval MODEL --data PATH"
MAX_CARD_BYTES = 2**20
NAME = r"[\w.-]+"  # a model's name: no path separators
# keys that identify an image of split.json
IDENTITY = ("domain", "key", "subject", "pair", "label", "sha256")


def find_model(model: str | os.PathLike[str], say: Say = lambda line: None) -> Path:
    """The folder of a trained model: an existing path, else an installed model's name, or an
    address such as hf://...

    `say` prints which model was chosen where it is not a path, and the limits that a packed model's
    card states. UserError with the nearest name where no model is found.
    """
    name = os.fspath(model)
    models = all_models()
    if "://" in name:
        path = load().hook.gantk_find_model(address=name, say=say)
        if path is None:
            raise UserError(
                f"'{name}' is not the address of a model",
                allowed="hf://USER/NAME, hf://USER/NAME@REVISION",
            )
    elif os.path.exists(name) and not (name in models and _is_no_model(Path(name))):
        path = Path(name)
        if name in models:
            say(f"note     './{name}' is used, not the model '{name}' from {models[name][1]}")
    elif name in models:
        path, owner = models[name]
        if os.path.exists(name):
            say(f"note     './{name}' is not used: it has no recipe.toml, so it is no run")
        say(f"model    {name} from {owner}, {weights_in_words(path)}")
    elif Path(name).suffix.lower().removeprefix(".") in registry()["exporter"]:
        return Path(name)  # the reader of such files reports that it is missing
    else:
        raise _no_model(name, models)

    limits = limits_of(path)
    if limits:
        say(f"limits   {limits}")

    return path


def _is_no_model(path: Path) -> bool:
    """Whether a path has no run or checkpoint that this user can read, such as a folder of images."""
    return not any(os.path.exists(path / mark) for mark in ("recipe.toml", "meta.json"))


def _no_model(name: str, models: Iterable[str]) -> UserError:
    what = f"there is no folder '{name}'"
    remedy = "name the folder that `gantk run` printed: runs/NAME-TIME"
    if re.fullmatch(NAME, name):
        what += ", and no model of that name"
        remedy += ", or a model that `gantk models` lists"

    nearest = did_you_mean(name, models)
    if nearest:
        remedy = f"{nearest} Else {remedy}"
    return UserError(what, remedy=remedy)


def all_models() -> dict[str, tuple[Path, str]]:
    """name -> (folder, distribution) of every installed model; the first package wins where two use
    one name.
    """
    models = files_of(registry().packages["models"], lambda path: (path / "recipe.toml").is_file())
    for path, _ in models.values():
        follow_links(path)  # package managers may install files as links
    return models


def weights_hash(path: Path) -> str:
    """The SHA-256 of a packed model's weights."""
    from gantk.runs import checkpoint
    from gantk.runs.folder import RunFolder

    return checkpoint.weights_hash(RunFolder.open(path).latest())


def weights_in_words(path: Path) -> str:
    """`weights sha256 1f2e3d4c`: what lines say of a packed model's weights."""
    return f"weights sha256 {weights_hash(path)[:8]}"


def pack_record(run: RunFolder) -> Packing | None:
    """The record of `gantk pack` in a packed model; None for a run that was trained here."""
    return run.meta(run.latest()).packed


def refuse_packed(run: RunFolder) -> None:
    """UserError where a run is a packed model: it has no training state to resume from."""
    if run.to_continue() is not None and pack_record(run) is not None:
        raise UserError(
            f"'{run.path}' is a packed model, which contains weights but no state of the training",
            remedy="resume the run that it was packed from",
        )


def copy_packed(run: RunFolder, target: Path) -> Path:
    """Copy the files of a packed model into a new folder, and return it."""
    saved = f"checkpoints/{run.latest().name}"
    make_folder(target / saved)
    for name in ("recipe.toml", "metrics.json", CARD, f"{saved}/meta.json", f"{saved}/{WEIGHTS}"):
        with suppress(FileNotFoundError):
            shutil.copyfile(
                regular_file(run.path / name, run.path, MAX_TENSORS_BYTES), target / name
            )
    return target


def card(path: Path) -> str:
    """The text of a model's card; "" where it has none."""
    with doing(f"reading '{path / CARD}'"), suppress(FileNotFoundError, NotADirectoryError):
        return read_file(path / CARD, path, MAX_CARD_BYTES).decode("utf-8")
    return ""


def limits_of(path: Path) -> str:
    """The first paragraph of a card's section on limits, in one line; "" where there is none."""
    return section_of(card(path), "Limits")


def section_of(text: str, title: str) -> str:
    """The first paragraph of a section of a card, in one line; "" where there is none."""
    section = re.search(rf"^## {title}\s+(.+?)(?:\n\s*\n|\Z)", text, re.M | re.S)
    return " ".join(section[1].split()) if section else ""


def opening_of(text: str) -> str:
    """What a card says before its first table or section: name and purpose of the model."""
    return re.split(r"^(?:\||## )", text, maxsplit=1, flags=re.M)[0].strip()


def scores_of(path: Path) -> list[list[str]]:
    """The first table of a card's section on scores, as rows of cells, the header first; [] where
    there is none.
    """
    section = re.search(r"^## Scores\s(.+?)(?=^## |\Z)", card(path), re.M | re.S)
    table = re.search(r"^\|.+\|$(?:\n\|.+\|$)+", section[1], re.M) if section else None
    if table is None:
        return []
    rows = [
        [cell.strip(" *") for cell in line.strip("|").split("|")] for line in table[0].split("\n")
    ]
    return [row for row in rows if any(cell.strip("-: ") for cell in row)]


def split_hash(sets: RecordedSets) -> str:
    """The SHA-256 of the assignment of images to sets in a split.json; independent of the images'
    paths.
    """
    rows = sorted(
        repr((name, *(getattr(image, key) for key in IDENTITY)))
        for name in ("train", "validation", "test")
        for image in getattr(sets, name)
    )
    return hashlib.sha256("\n".join(rows).encode()).hexdigest()


def split_of(run: Path, packed: Packing | None) -> RecordedSets | SeenFiles | None:
    """The images of each set of a run, as far as is known; of a packed model, whose record this is,
    the hashes of its training images.
    """
    if packed is not None and packed.seen is not None:
        return packed.seen
    split = read(run, "split.json", RecordedSplit)
    return split.splits if split else None


def trained_on(run: Path, packed: Packing | None, *, validation: bool = False) -> set[str]:
    """The SHA-256 of the files that a model was trained on and, of a run that was not packed, the names
    of their patients. `validation`: with those that may have chosen its checkpoint, and the images that a
    split left out, as next to held-out images or copies.
    """
    sets = split_of(run, packed)
    if isinstance(sets, RecordedSets):
        images = [*sets.train, *(sets.set_aside or ()), *(sets.validation if validation else ())]
        known = {each for one in images for each in (one.subject, one.sha256) if each}
        if validation and images and sets.by in ("block", "image"):
            known |= {each for row in sets.left_out or () for each in row[2:] if each}
        return known
    if sets is not None:
        return {file.sha256 for file in sets.train if file.sha256}
    return set()


def doubt_about_people(run: Path, packed: Packing | None) -> str:
    """A warning for a model whose training patients are not known; "" for others."""
    sets = split_of(run, packed)
    if isinstance(sets, RecordedSets) and not all(image.subject for image in sets.train):
        return "whom it was trained on is not known, so the same people may be among these"
    return ""


def is_among(
    seen: Collection[str],
    patient: str,
    file: Path | None,
    hash_of: Callable[[Path], str] = sha256_of,
) -> bool:
    """Whether a patient is one of `trained_on`, as far as this name or a file of the patient say."""
    if patient in seen:
        return True
    return bool(seen) and file is not None and file.is_file() and hash_of(file) in seen


def data_of(run: RunFolder, table: DataTable, method: type) -> Data:
    """The data of a run with its recorded split; UserError where a packed model was split on other
    images.
    """
    from gantk.data.dataset import Data

    record = pack_record(run)
    data = Data(table, method, run.split() if record is None else None)
    require_split(record, data)
    return data


def require_split(record: Packing | None, data: Data) -> None:
    """UserError where the split of the images here differs from that of a packed model's training
    and scoring.
    """
    if record is not None and record.split != split_hash(data.split_json().splits):
        raise UserError(
            "these images differ from those that the model was trained and scored on, so"
            " it may have seen some of them",
            remedy=SCORE_OTHERS,
        )
