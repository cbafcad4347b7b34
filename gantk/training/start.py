"""Starts a method from another training's weights: copies what fits by name and shape, keeps the
rest as drawn.
"""

from __future__ import annotations

import copy
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from gantk.data.dataset import Data
from gantk.errors import UserError, argument, count_noun, join_first
from gantk.files import sha256_of
from gantk.machine.runtime import Runtime
from gantk.method import Method
from gantk.nets.pretrained import read_state
from gantk.recipe.load import all_recipes
from gantk.runs import checkpoint, trained
from gantk.runs.folder import RunFolder
from gantk.runs.models import find_model, split_of
from gantk.runs.schemas import Meta
from gantk.terminal import warn

if TYPE_CHECKING:
    from gantk.runs.checkpoint import Weights

WHERE = "train.start"
MIN_SHARE = 0.01  # of weights that must fit: a few biases fit between any two networks


@dataclass(frozen=True)
class Start:
    """Result of loading `train.start`: lines to print, a record for environment.json, and a leakage
    error or None.
    """

    lines: tuple[str, ...] = ()
    record: dict[str, Any] = field(default_factory=dict)
    leaks: UserError | None = None  # set if the start was trained on images that are held out here


def find_weights(name: str) -> Path:
    """The checkpoint's folder or the file of weights that `train.start` names; UserError where
    there is none.
    """
    try:
        path = find_model(name)
        if path.is_file() or (path / "meta.json").is_file():
            return path
        return RunFolder.open(path).inference_checkpoint()
    except UserError as error:
        raise error.at(WHERE) from None


def start_from(name: str, method: Method, data: Data) -> Start:
    """Copy the weights of checkpoint or file `name`, averaged ones if there are any, into the
    method; returns a Start.

    Copies parameters, and buffers of modules that a phase updates (no image pools), if name, shape
    and float or integer type agree. UserError if less than `MIN_SHARE` of the weights fit, or one
    that fits is not finite.
    """
    place = find_weights(name)
    meta = None
    if place.is_dir():
        meta = checkpoint.load_meta(place)
        tensors = checkpoint.load_weights(place)
        digest = checkpoint.weights_hash(place)
    else:
        digest = sha256_of(place)
        tensors = read_state(place, WHERE)

    live, average = trained.split_weights(tensors)
    saved = (live | average) or tensors
    state = method.state_dict(keep_vars=True)
    wanted = _updated_state(method, state)
    copied = {}
    misfits = []  # those of another shape or type
    for key in sorted(wanted.keys() & saved.keys()):
        old = saved[key]
        new = wanted[key]
        if old.shape == new.shape and old.is_floating_point() == new.is_floating_point():
            copied[key] = old  # float16 may become float32
        else:
            misfits.append(f"{key} {checkpoint.kind_of(old)}, here {checkpoint.kind_of(new)}")
    share = _count(copied) / _count(wanted) if wanted else 0.0
    if share < MIN_SHARE:
        what = (
            f"the weights of '{name}' do not fit the networks of this recipe (only"
            f" {count_noun(copied, 'tensor')} would fit): "
        )
        if misfits:
            what += misfits[0]
        else:
            what += f"the file has '{next(iter(saved))}', the networks have '{next(iter(wanted))}'"

        remedy = "use the [method] table of the recipe that these weights were trained with"
        recipe = name if name in all_recipes() else place.parent.parent / "recipe.toml"
        if meta is not None:
            remedy += (
                f": gantk run {argument(recipe)} --data SCANS --set train.start={argument(name)}"
            )
        raise UserError(what, where=WHERE, remedy=remedy)

    not_finite = [key for key, tensor in copied.items() if not tensor.isfinite().all()]
    if not_finite:
        raise UserError(
            f"'{not_finite[0]}' in '{name}' has values that are not finite"
            f" ({count_noun(not_finite, 'tensor')} in all)",
            where=WHERE,
            remedy="start from an earlier checkpoint",
        )

    with torch.no_grad():
        for key, tensor in copied.items():
            wanted[key].copy_(tensor)

    drawn = sorted(wanted.keys() - saved.keys())
    unused = sorted(saved.keys() - state.keys())
    taken = f"{len(copied)} of {len(wanted)} tensors, {share:.0%} of the weights"
    printed = [f"start    {place} (sha256 {digest[:8]}): {taken}"]
    described = f"{join_first(misfits)} ({count_noun(misfits, 'tensor')})"
    for keys, words in (
        (drawn, f"random weights, because the file lacks them: {_layers(drawn, wanted)}"),
        (misfits, f"random weights, because the file has another shape: {described}"),
        (unused, f"not used, because this method lacks them: {_layers(unused, saved)}"),
    ):
        printed += [f"start    {words}"] if keys else []

    if meta is not None:
        printed += [f"note     {line}" for line in _differences(meta, data)]
    record = {
        "from": name,
        "path": str(place),
        "sha256": digest,
        "step": meta.step if meta else None,
        "taken": [*copied],
        "not_there": drawn,
        "other_shape": misfits,
        "unused": unused,
    }
    leaks = _leaks(name, meta, place, data) if meta else None
    return Start(tuple(printed), {"start": record}, leaks)


def started_method(name: str, method: Method, data: Data, runtime: Runtime) -> Method | None:
    """A copy of the method with the weights of checkpoint or file `name` alone: what these lack is
    NaN, so that nothing of this training is taken for the start. None where they are not there any
    more.
    """
    started = copy.deepcopy(method).requires_grad_(False)
    with torch.no_grad():
        for tensor in _updated_state(started, started.state_dict(keep_vars=True)).values():
            if tensor.is_floating_point():
                tensor.fill_(torch.nan)
    try:
        runtime.sync_errors(lambda: runtime.main and start_from(name, started, data))
    except UserError as error:
        if runtime.main:
            warn(f"the model that the training started from is not scored: {error.what}")
        return None
    runtime.broadcast(started.state_dict().values())
    return started


def _updated_state(method: Method, state: Weights) -> Weights:
    """The parameters of a method, and the buffers of modules that a phase updates."""
    updated = set()
    for phase in method.phases():
        for module in phase.updates:
            updated |= {id(buffer) for buffer in module.buffers()}

    return {
        key: value
        for key, value in state.items()
        if isinstance(value, nn.Parameter) or id(value) in updated
    }


def _count(tensors: Weights) -> int:
    return sum(tensor.numel() for tensor in tensors.values())


def _layers(keys: list[str], tensors: Weights) -> str:
    """Names of networks whose tensors are all among the keys, else of their layers: `d_a, d_b,
    g_ab.head.0`.
    """
    partly = {key.split(".")[0] for key in tensors if key not in keys}
    networks = ((key, key.split(".")[0]) for key in keys)
    layers = [key.rpartition(".")[0] if network in partly else network for key, network in networks]
    return f"{join_first([*dict.fromkeys(layers)])} ({count_noun(keys, 'tensor')})"


def _differences(meta: Meta, data: Data) -> list[str]:
    """Lines on domains and intensity settings that differ between the start's training and this
    one.
    """
    start_names = meta.domains
    names = [*data.table.domains]
    notes = []
    if start_names and [*map(str.lower, start_names)] != [*map(str.lower, names)]:
        notes.append(
            f"the start model was trained on the domains {' and '.join(start_names)}, this"
            f" recipe has {' and '.join(names)}; the order matters"
        )

    for letter, fitted in data.intensity_state().items():
        new = json.loads(json.dumps(fitted))  # tuples are lists, as in meta.json
        state = meta.intensity.get(letter)
        old = state.dump() if state else new
        other = []
        for key in sorted(old | new):
            learned = key in ("fitted", "contrasts", "lines")  # fitted to each data set
            if old.get(key) != new.get(key) and not learned:
                other.append(f"{key} = {old.get(key)} (here {new.get(key)})")
        if other:
            notes.append(
                "the start model was trained with a different intensity mapping:"
                f" {', '.join(other)}"
            )

    return [*dict.fromkeys(notes)]


def _leaks(name: str, meta: Meta, place: Path, data: Data) -> UserError | None:
    """A UserError if the start was trained on files that are held out here; None if it was not."""
    split = split_of(place.parent.parent, meta.packed)
    if split is None:
        return None

    trained_on = {image.sha256 for image in split.train}
    paths = {
        record.path
        for name in ("validation", "test")
        for record in data.splits[name]
        if record.path
    }
    seen = [
        path.name for path, digest in data.preparation.sha256(paths).items() if digest in trained_on
    ]
    # its files are in both sets
    if not seen or "block" in (split.by, getattr(data.splits, "by", None)):
        return None

    what = (
        f"'{name}' was trained on {count_noun(seen, 'file')} that this split holds out,"
        f" such as '{seen[0]}'"
    )
    remedy = (
        "use the split of its run, hold out other patients, or add --allow-leakage, which"
        " the run records"
    )
    return UserError(what, where=WHERE, remedy=remedy)
