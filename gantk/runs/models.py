"""Trained models by path, by the name that a package offers one under, or by an address; packed ones: weights alone."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gantk.errors import UserError, did_you_mean, told
from gantk.files import sha256_of
from gantk.plugin.loader import load, registry
from gantk.recipe.load import files_of

if TYPE_CHECKING:  # it imports torch, and a .onnx file is translated without
    from gantk.data.dataset import Data
    from gantk.recipe.tables import DataTable
    from gantk.runs.folder import Run

CARD = "card.md"  # of a packed model: what it was trained on, how good it is and what it cannot do
NAME = r"[\w.-]+"  # a name, and no path to anything
WHO = ("domain", "key", "subject", "pair", "label", "sha256")  # what makes an image of split.json the same one


def find_model(model: str | os.PathLike[str], say: Callable[[str], None] = lambda line: None) -> Path:
    """Where a trained model lies: the path as typed, else a model of that name that a package offers, else hf://...

    `say` hears which one that is where the name leaves it open, and the limits that a packed model's card states.
    UserError with the nearest name where there is none.
    """
    name, known = os.fspath(model), all_models()
    if "://" in name:
        path = load().hook.gantk_model(address=name, say=say)
        if path is None:
            raise UserError(f"'{name}' is no address of a model", allowed="hf://USER/NAME, hf://USER/NAME@REVISION")
    elif os.path.exists(name):
        path = Path(name)
        if name in known:
            say(f"note     './{name}' is taken, and not the model '{name}' that {known[name][1]} ships")
    elif name in known:
        path, owner = known[name]
        say(f"model    {name}, shipped with {owner}, weights sha256 {weights_hash(path)}")
    elif Path(name).suffix.lower().removeprefix(".") in registry().names("exporter"):
        return Path(name)  # what reads such files says that it is missing
    else:
        named = re.fullmatch(NAME, name)
        remedy = [did_you_mean(name, known), "name the folder that `gantk run` printed: runs/NAME-TIME"]
        what = f"there is no folder '{name}'" + ", and no model of that name" * bool(named)
        remedy[1] += ", or a model that `gantk models` lists" * bool(named)
        raise UserError(what, remedy=" or ".join(filter(None, remedy)).replace("? or ", "? Else "))
    if limits := limits_of(path):
        say(f"limits   {limits}")
    return path


def all_models() -> dict[str, tuple[Path, str]]:
    """name -> (folder, distribution) of every model that a package offers; of one name the first package's counts."""
    return files_of(registry().packages["models"], lambda path: (path / "recipe.toml").is_file())


def weights_hash(path: Path) -> str:
    """The SHA-256 of a packed model's weights."""
    from gantk.runs.folder import Run

    return sha256_of(Run.open(path).latest() / "weights.safetensors")


def packed(run: Run) -> dict[str, Any] | None:
    """What `gantk pack` noted of a model that it made: name, left_out, split; None of a run that trained here."""
    from gantk.runs.checkpoint import load_meta

    return load_meta(run.latest()).get("packed")


def refuse_packed(run: Run) -> None:
    """UserError where a run is a packed model, which holds nothing that a training could go on from."""
    if packed(run) is not None:
        what = f"'{run.path}' is a packed model: it holds weights alone, and no state of the training"
        raise UserError(what, remedy="resume the run that it was packed from")


def card(path: Path) -> str:
    """The text of a model's card; "" where it has none. UserError where it cannot be read."""
    try:
        return (path / CARD).read_text("utf-8")
    except (FileNotFoundError, NotADirectoryError):
        return ""
    except (OSError, ValueError) as error:
        raise UserError(f"'{path / CARD}' cannot be read: {told(error)}", remedy="copy the model again") from None


def limits_of(path: Path) -> str:
    """The first paragraph of a card's section on limits, in one line; "" where there is none."""
    found = re.search(r"^## Limits\s+(.+?)(?:\n\s*\n|\Z)", card(path), re.M | re.S)
    return " ".join(found[1].split()) if found else ""


def split_hash(splits: Mapping[str, Any]) -> str:
    """The SHA-256 of which images are in which set of a split.json; where they lie does not matter."""
    rows = sorted(
        repr((name, *(image.get(key) for key in WHO)))
        for name in ("train", "validation", "test")
        for image in splits["splits"].get(name) or ()
    )
    return hashlib.sha256("\n".join(rows).encode()).hexdigest()


def data_of(run: Run, table: DataTable, method: type) -> Data:
    """A run's images, split as they were; UserError where a packed model's are not those that are found here."""
    from gantk.data.dataset import Data

    noted = packed(run)
    data = Data(table, method, run.split() if noted is None else None)
    require_split(noted, data)
    return data


def require_split(noted: Mapping[str, Any] | None, data: Data) -> None:
    """UserError where images are not split as those that a packed model was trained on and scored by."""
    if noted is not None and noted.get("split") != split_hash(data.split_json()):
        what = "the images here are not those that this model was trained on and scored by, so some may be known to it"
        raise UserError(what, remedy="translate images of your own, then `gantk eval --pred FOLDER --truth FOLDER`")
