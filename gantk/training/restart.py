"""Checks that ranks train the same thing, and finds out whether a run folder is to be resumed after
a restart.
"""

from __future__ import annotations

import hashlib
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch

from gantk import __version__
from gantk.data.dataset import Data
from gantk.data.split_json import RecordedSplit
from gantk.errors import UserError, argument
from gantk.files import lock_folder, regular_file
from gantk.machine.launch import Launch
from gantk.recipe.load import LACKING_IN_TRAINING, load_recipe, resolved
from gantk.recipe.published import value_at
from gantk.recipe.tables import CheckedRecipe
from gantk.runs.folder import RunFolder, flat

LOADER = "batches of another program"  # where a run's images come from, in environment.json
# machines may have the same files at different paths
LOCAL = {"data.source.path", "train.start"}


def identity_of(model: CheckedRecipe, data: Data) -> dict[str, str]:
    """What ranks must agree on: versions, all recipe keys, and the images of each split with their
    file sizes.
    """
    identity = {"gantk": __version__, "torch": torch.__version__}
    identity |= {
        key: str(_without_paths(value)) for key, value in flat(resolved(model)) if key not in LOCAL
    }
    for split, records in data.splits.items():
        digest = hashlib.sha256()
        for record in records:
            sizes = [path.stat().st_size for path in record.files]
            # not pseudonyms
            names = (getattr(name, "of", name) for name in (record.subject, record.pair))
            digest.update(repr((record.domain, record.key, *names, record.label, sizes)).encode())
        identity[f"{split} data"] = f"{len(records)} images ({digest.hexdigest()[:8]})"

    return identity


def _without_paths(value: Any) -> Any:
    """A recipe's value without the paths of sources inside it, such as a mixed source's."""
    if isinstance(value, list):
        return [_without_paths(one) for one in value]
    if isinstance(value, dict):
        return {key: _without_paths(one) for key, one in value.items() if key != "path"}
    return value


def run_to_resume(
    out: str | Path | None, tables: dict[str, Any], process: Launch, locks: ExitStack
) -> tuple[bool, Path | None, RecordedSplit | None]:
    """Whether the folder `out` holds a run to resume, its newest checkpoint, and its split; None:
    from the start.

    A run is resumed if the same recipe is started again after a kill before its first save; and,
    from the newest save, by torchrun, or by SLURM after a requeue. UserError if the folder holds
    another run, or if torchrun may restart a run without a folder set by --out.
    """
    if out is None and (process.may_restart or process.restarts):
        raise UserError(
            "a run that may be restarted needs a run folder with a fixed name",
            where="--out",
            remedy="add --out DIR, the same for all starts",
        )
    if out is None or not (Path(out) / "recipe.toml").is_file():
        return False, None, None

    folder = RunFolder.open(out)
    locks.enter_context(lock_folder(folder.path))
    saved = folder.steps
    automatic = process.restarts or (process.elastic and not folder.report.exists())
    unfinished = automatic if saved else not (folder.path / "metrics.json").exists()
    # the images that a run on batches keeps are samples, not what it is trained on
    if unfinished and folder.environment.recipe.data != LOADER:
        recorded = load_recipe(regular_file(folder.path / "recipe.toml", folder.path))
        recorded.leaves_out = LACKING_IN_TRAINING
        before = resolved(recorded.check())
        if with_layout(tables, value_at(before, ("data", "source", "layout"))) == before:
            return (True, folder.latest(), folder.split()) if saved else (True, None, None)

    raise folder.occupied_error()


def with_layout(tables: dict[str, Any], layout: Any) -> dict[str, Any]:
    """A recipe's tables with the layout by which the names were read, where the recipe leaves it
    open.
    """
    data = tables["data"]
    if value_at(data, ("source", "layout")) != "":
        return tables
    return tables | {"data": data | {"source": data["source"] | {"layout": layout}}}


def advice(folder: Path, world: int) -> str:
    """Advice for messages after a lost rank or a full disk: how to resume."""
    steps = RunFolder(folder).steps
    what = "There is no run yet. Start it again"
    if (folder / "split.json").is_file():
        saved = f"The newest checkpoint is step {steps[-1]}" if steps else "There is no checkpoint"
        what = f"{saved}. To continue, run: gantk resume {argument(folder)}"
    if world == 1:
        return f"{what}."

    return f"{what}, on {world} ranks again. torchrun --max-restarts 3 does this automatically."
