"""Starts a method from another training's weights: copies what fits by name and shape, keeps the rest as drawn."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gantk.data.dataset import Data
from gantk.data.split.leakage import listed
from gantk.errors import UserError, counted
from gantk.files import sha256_of
from gantk.method import Method
from gantk.nets.pretrained import read_state
from gantk.runs import checkpoint, trained
from gantk.runs.folder import RunFolder
from gantk.runs.models import find_model
from gantk.runs.schemas import read
from gantk.training.assemble import Start

WHERE = "train.start"
LEAST = 0.01  # share of weights that must fit: a few biases fit between any two networks


def found(name: str) -> Path:
    """The checkpoint's folder or the file of weights that `train.start` names; UserError where there is none."""
    try:
        path = find_model(name)
        return path if path.is_file() or (path / "meta.json").is_file() else RunFolder.open(path).chosen()
    except UserError as error:
        raise error.at(WHERE) from None


def start_from(name: str, method: Method, data: Data) -> Start:
    """Copy the weights of checkpoint or file `name`, averaged ones if there are any, into the method; returns a Start.

    Copies parameters, and buffers of modules that a phase updates (no image pools), if name, shape and float or integer
    type agree. UserError if less than `LEAST` of the weights fit, or one that fits is not finite.
    """
    place = found(name)
    meta, file = (checkpoint.load_meta(place), place / "weights.safetensors") if place.is_dir() else ({}, place)
    tensors = checkpoint.load_weights(place) if meta else read_state(place, WHERE)
    live, average = trained.split_weights(tensors)
    updated = {id(buffer) for phase in method.phases() for module in phase.updates for buffer in module.buffers()}
    there, here = live | average or tensors, method.state_dict(keep_vars=True)
    unused = sorted(there.keys() - here.keys())
    here = {key: each for key, each in here.items() if isinstance(each, nn.Parameter) or id(each) in updated}
    drawn = sorted(here.keys() - there.keys())
    both = {key: (there[key], here[key]) for key in sorted(here.keys() & there.keys())}
    alike = {key for key, pair in both.items() if len({(one.shape, one.is_floating_point()) for one in pair}) == 1}
    taken = {key: one for key, (one, _) in both.items() if key in alike}  # float16 may become float32
    other = [f"{key} {', here '.join(map(checkpoint.kind_of, both[key]))}" for key in both if key not in taken]
    count, every = (sum(tensor.numel() for tensor in each.values()) for each in (taken, here))
    if count < LEAST * every:
        what = f"the weights of '{name}' do not fit the networks of this recipe ({counted(taken, 'tensor')} would): "
        what += other[0] if other else f"they have '{next(iter(there))}', these '{next(iter(here))}'"
        remedy = "take the [method] table of the recipe that they were trained with"
        raise UserError(what, where=WHERE, remedy=remedy)
    if wrong := [key for key, tensor in taken.items() if not tensor.isfinite().all()]:
        what = f"'{wrong[0]}' of '{name}' is not finite ({counted(wrong, 'tensor')})"
        raise UserError(what, where=WHERE, remedy="start from an earlier checkpoint")
    with torch.no_grad():
        for key, tensor in taken.items():
            here[key].copy_(tensor)
    digest = sha256_of(file)
    lines = [f"{place} (sha256 {digest[:8]}): {len(taken)} of {len(here)} tensors, {count / every:.0%} of the weights"]
    lines += [f"not there, so drawn from the seed: {_layers(drawn, here)}"] if drawn else []
    lines += [f"of another shape there, so drawn: {listed(other)} ({counted(other, 'tensor')})"] if other else []
    lines += [f"there, and nowhere here: {_layers(unused, there)}"] if unused else []
    record = {"from": name, "path": str(place), "sha256": digest, "step": meta.get("step"), "taken": [*taken]}
    record |= {"not_there": drawn, "other_shape": other, "unused": unused}
    said = [f"start    {line}" for line in lines] + [f"note     {line}" for line in _differences(meta, data)]
    return Start(tuple(said), {"start": record}, _leaks(name, meta, place, data) if meta else None)


def _layers(keys: list[str], every: dict[str, Tensor]) -> str:
    """Names of networks whose tensors are all among the keys, else of their layers: `d_a, d_b, g_ab.head.0`."""
    partly = {key.split(".")[0] for key in every if key not in keys}
    heads = ((key, key.split(".")[0]) for key in keys)
    layers = [key.rpartition(".")[0] if head in partly else head for key, head in heads]
    return f"{listed([*dict.fromkeys(layers)])} ({counted(keys, 'tensor')})"


def _differences(meta: dict[str, Any], data: Data) -> list[str]:
    """Lines on domains and intensity settings that differ between the start's training and this one."""
    before, now, said = meta.get("domains"), [*data.table.domains], []
    if before and [*map(str.lower, before)] != [*map(str.lower, now)]:
        said.append(f"the start's domains are {' and '.join(before)}, in this order; here {' and '.join(now)}")
    for letter, new in data.intensity_state().items():
        old = meta.get("intensity", {}).get(letter, new)
        learned = ("fitted", "contrasts", "lines")  # fitted to each data set, so they may differ
        keys = [key for key in sorted(old | new) if old.get(key) != new.get(key) and key not in learned]
        other = [f"{key} = {old.get(key)} (here {new.get(key)})" for key in keys]
        said += [f"the start saw other intensities: {', '.join(other)}"] if other else []
    return [*dict.fromkeys(said)]


def _leaks(name: str, meta: dict[str, Any], place: Path, data: Data) -> UserError | None:
    """A UserError if the start was trained on files that are held out here; None if it was not."""
    made = (meta.get("packed") or {}).get("seen")
    made = made or read(place.parent.parent / "split.json").get("splits", {"train": ()})
    before = {image.get("sha256") for image in made["train"]}
    paths = {record.path for each in ("validation", "test") for record in data.splits[each] if record.path}
    seen = [path.name for path, digest in data.preparation.sha256(paths).items() if digest in before]
    if not seen or "block" in (made.get("by"), getattr(data.splits, "by", None)):  # its files are in both sets
        return None
    what = f"'{name}' was trained on {counted(seen, 'file')} that are held out here, such as '{seen[0]}'"
    remedy = "split as it did, hold out other patients, or overrule with --allow-leakage, which the run records"
    return UserError(what, where=WHERE, remedy=remedy)
