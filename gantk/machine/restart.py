"""Runs that were broken off: what torchrun starts again goes on from the last save."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import tomli_w

from gantk.errors import UserError
from gantk.machine.runtime import Runtime
from gantk.runs.checkpoint import path_of, steps_saved
from gantk.runs.folder import RunFolder

Opened = tuple[RunFolder, bool, Path | None]

def opened(out: str | Path | None, name: str, tables: dict[str, Any], runtime: Runtime) -> Opened:
    """The folder of a run; whether it holds an unfinished run that is to be gone on with, and from which save.

    That is so where torchrun, or SLURM after a requeue, started the same recipe for the same folder again. UserError
    where the folder holds another run, or where torchrun may start again and nobody says in which folder.
    """
    place = runtime.launched
    if out is None and (place.may_restart or place.restarted):
        what = "a run that may be started again needs a folder that is known before"
        raise UserError(what, where="--out", remedy="name one for all starts: --out DIR")
    if out is not None and (place.elastic or place.restarted) and (Path(out) / "recipe.toml").is_file():
        folder = RunFolder.open(out)
        unfinished = place.restarted or not (folder.path / "report.html").exists()
        if unfinished and folder.recipe().override([]).tables == tomllib.loads(tomli_w.dumps(tables)):
            saved = steps_saved(folder.checkpoints)
            return folder, True, path_of(folder.checkpoints, saved[-1]) if saved else None
    return RunFolder.create(out, name), False, None


def advice(folder: Path, world: int) -> str:
    """What to do after a rank was lost."""
    steps = steps_saved(folder / "checkpoints")
    if not steps:
        return "Nothing had been saved yet. Start again; torchrun --max-restarts 3 does it by itself."
    return (
        f"Everything up to step {steps[-1]} is saved. Go on with: gantk resume {folder}, on {world} ranks again; "
        "torchrun --max-restarts 3 does it by itself."
    )
