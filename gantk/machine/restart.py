"""What the ranks of a training must have in common, and how a run that was broken off goes on from its last save."""

from __future__ import annotations

import hashlib
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tomli_w
import torch

from gantk import __version__
from gantk.errors import UserError
from gantk.machine.runtime import Runtime
from gantk.recipe.load import resolved
from gantk.recipe.tables import Model
from gantk.runs.checkpoint import path_of, steps_saved
from gantk.runs.folder import Run, flat

if TYPE_CHECKING:
    from gantk.data.dataset import Data

LOCAL = {"data.source.path", "data.split.file"}  # machines may keep the same files at different places


def identity_of(model: Model, data: Data) -> dict[str, str]:
    """Versions, every key of the recipe in force, and the images of each split with the sizes of their files."""
    found = {"gantk": __version__, "torch": torch.__version__}
    found |= {key: str(value) for key, value in flat(resolved(model)) if key not in LOCAL}
    for split, records in data.splits.items():
        seen = hashlib.sha256()
        for record in records:
            sizes = [path.stat().st_size for path in record.files]
            whose = (getattr(name, "of", name) for name in (record.subject, record.pair))  # not by pseudonyms
            seen.update(repr((record.domain, record.key, *whose, record.label, sizes)).encode())
        found[f"{split} data"] = f"{len(records)} images ({seen.hexdigest()[:8]})"
    return found


def opened(
    out: str | Path | None, name: str, tables: dict[str, Any], runtime: Runtime
) -> tuple[Run, bool, Path | None]:
    """The folder of a run; whether it holds an unfinished run that is to be gone on with, and from which save.

    That is so where torchrun, or SLURM after a requeue, started the same recipe for the same folder again. UserError
    where the folder holds another run, or where torchrun may start again and nobody says in which folder.
    """
    place = runtime.launched
    if out is None and (place.may_restart or place.restarts):
        what = "a run that may be started again needs a folder that is known before"
        raise UserError(what, where="--out", remedy="name one for all starts: --out DIR")
    if out is not None and (place.elastic or place.restarts) and (Path(out) / "recipe.toml").is_file():
        folder = Run.open(out)
        unfinished = place.restarts or not (folder.path / "report.html").exists()
        if unfinished and folder.recipe().override([]).tables == tomllib.loads(tomli_w.dumps(tables)):
            saved = steps_saved(folder.checkpoints)
            return folder, True, path_of(folder.checkpoints, saved[-1]) if saved else None
    return Run.create(out, name), False, None


def advice(folder: Path, world: int) -> str:
    """What to do after a rank was lost, or a disk was full."""
    steps = steps_saved(folder / "checkpoints")
    what = "Nothing had been saved yet. Start again"
    if steps:
        what = f"Everything up to step {steps[-1]} is saved. Go on with: gantk resume {folder}"
    if world == 1:
        return f"{what}."
    return f"{what}{', on' if steps else ' on'} {world} ranks again; torchrun --max-restarts 3 does it by itself."
