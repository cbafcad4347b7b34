"""Writes and reads checkpoints: folders that appear only when complete. Tensors are safetensors,
never pickles.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from gantk.errors import UserError, count_noun, expect_format, reading_file
from gantk.files import (
    MAX_TENSORS_BYTES,
    expect_inside,
    regular_file,
    remove,
    sha256_of,
    temporary_beside,
    whole_folder,
    write_file,
)
from gantk.runs.schemas import WEIGHTS, Meta, TrainingState, parse_checked, text_of

if TYPE_CHECKING:  # importing PyTorch is slow; a checkpoint can be listed and hashed without it
    import torch
    from torch import Tensor

    Weights = dict[str, Tensor]  # by name

FORMAT = 1
# name of PyTorch -> name in the file
DTYPES = {
    "torch.float32": "F32",
    "torch.float64": "F64",
    "torch.float16": "F16",
    "torch.bfloat16": "BF16",
    "torch.bool": "BOOL",
    "torch.int64": "I64",
    "torch.int32": "I32",
    "torch.int16": "I16",
    "torch.int8": "I8",
    "torch.uint8": "U8",
    "torch.uint64": "U64",
    "torch.uint32": "U32",
    "torch.uint16": "U16",
    "torch.complex64": "C64",
    "torch.float8_e4m3fn": "F8_E4M3",
    "torch.float8_e5m2": "F8_E5M2",
}
T = TypeVar("T")


def save(folder: Path, step: int, weights: Weights, state: dict | None, meta: dict) -> Path:
    """Write the checkpoint `folder/step-N` and return its path.

    `weights` goes to weights.safetensors, `meta` to meta.json, `state` to state.json and its
    tensors to state.safetensors; no state files where `state` is None. A state holds tensors,
    numbers, strings, None, lists and dicts; UserError for any other type. `load_state` returns
    tuples as lists, and keys such as "12" as whole numbers.
    """
    tensors: Weights = {}

    def store_tensor(value: Any) -> dict[str, Any]:
        if _dtype(value) not in DTYPES:
            raise UserError(
                f"the state of an optimizer contains a {kind_of(value)}, which a checkpoint"
                " cannot store",
                allowed="tensors, numbers, strings, None, lists and dicts",
            )

        order = list(range(value.ndim))
        if not value.is_contiguous():
            order.sort(key=lambda axis: -value.stride(axis))

        name = f"tensor-{len(tensors)}"
        tensors[name] = value.detach().permute(order)
        return {"$tensor": name, "$order": order}

    final = path_of(folder, step)
    expect_inside(folder.parent, folder)
    with whole_folder(final) as made:
        state_text = json.dumps(state, default=store_tensor).encode()  # fills `tensors`
        written: dict[str, Iterable[bytes | memoryview]] = {WEIGHTS: _safetensors(weights)}
        if state is not None:
            written["state.json"] = [state_text]
            written["state.safetensors"] = _safetensors(tensors)

        digests = {name: hashlib.sha256() for name in written}
        for name, parts in written.items():
            write_file(made / name, map(partial(_update_digest, digests[name]), parts))

        meta = meta | {"format": FORMAT, "step": step}
        seals = {name: digest.hexdigest() for name, digest in digests.items()}
        seals["meta.json"] = _sha256_of_meta(meta)
        write_file(made / "meta.json", json.dumps(meta | {"sha256": seals}, indent=1).encode())

    return final


def _safetensors(tensors: Weights) -> Iterator[bytes | memoryview]:
    """Yield a safetensors file tensor by tensor: a copy of the whole file may not fit into memory
    during training.
    """
    import torch

    # the largest elements first, so that every offset is aligned
    ordered = sorted(tensors.items(), key=lambda named: (-named[1].element_size(), named[0]))
    header = {}
    end = 0
    for name, tensor in ordered:
        if _dtype(tensor) not in DTYPES:
            raise UserError(
                f"the weight '{name}' is {kind_of(tensor)}, a type that a checkpoint cannot store"
            )

        start = end
        end += tensor.numel() * tensor.element_size()
        header[name] = {
            "dtype": DTYPES[_dtype(tensor)],
            "shape": [*tensor.shape],
            "data_offsets": [start, end],
        }

    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    yield len(text).to_bytes(8, "little") + text
    for _, tensor in ordered:
        yield tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data


def _update_digest(digest: Any, part: bytes | memoryview) -> bytes | memoryview:
    digest.update(part)
    return part


def prune(folder: Path, keep: int, also: Collection[int], regular: Callable[[int], bool]) -> None:
    """Delete all checkpoints but the newest `keep` regular ones, the newest `keep` after them and
    the steps `also`.
    """
    expect_inside(folder.parent, folder)
    # left by a process killed while it wrote or deleted a checkpoint
    for stale in folder.glob(".step-*.tmp"):
        remove(stale)

    steps = steps_saved(folder)
    kept = [step for step in steps if regular(step)]
    later = [step for step in steps if not kept or step > kept[-1]]
    for old in {*steps} - {*kept[-keep:], *later[-keep:], *also}:
        # renamed first: a half deleted folder must not look like a checkpoint
        checkpoint = path_of(folder, old)
        remove(checkpoint.rename(temporary_beside(checkpoint)))


def path_of(folder: Path, step: int) -> Path:
    """The path of a step's checkpoint, whether it exists or not."""
    return folder / f"step-{step:06d}"


def steps_saved(folder: Path) -> list[int]:
    """The steps of all complete checkpoints of a run, ascending."""
    steps = []
    for path in folder.glob("step-*"):
        match = re.fullmatch(r"step-(\d+)", path.name)
        # a link or a pipe is an error when it is read, not a checkpoint that is not finished
        if match and os.path.lexists(path / "meta.json"):
            steps.append(int(match[1]))
    return sorted(steps)


def load_meta(checkpoint: Path) -> Meta:
    """The content of a checkpoint's meta.json; UserError where it is damaged or too new."""
    meta = _read(checkpoint, "meta.json", lambda path: parse_checked(_text(path), Meta))
    expect_format("this checkpoint", meta.format, FORMAT, str(checkpoint))
    return meta


def _sha256_of_meta(meta: dict[str, Any]) -> str:
    """The SHA-256 of meta.json without its own "sha256" entry."""
    plain = {key: value for key, value in meta.items() if key != "sha256"}
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()


def load_meta_of(method: str, checkpoint: Path) -> Meta:
    """The content of a checkpoint's meta.json; UserError where another method than `method` wrote
    it.
    """
    meta = load_meta(checkpoint)
    if meta.method != method:
        raise UserError(
            f"the checkpoint belongs to the method '{meta.method}', but the recipe has '{method}'",
            where=str(checkpoint),
            remedy="use the recipe.toml of the run that wrote it",
        )

    return meta


def load_weights(checkpoint: Path) -> Weights:
    """The checkpoint's weights by name; UserError where the file is damaged or not a safetensors
    file.
    """
    from safetensors.torch import load_file

    return _read(checkpoint, WEIGHTS, load_file)


def weights_hash(checkpoint: Path) -> str:
    """The SHA-256 of a checkpoint's weights; FileNotFoundError where they are missing."""
    return sha256_of(checkpoint / WEIGHTS, run_of(checkpoint))


def load_state(checkpoint: Path) -> TrainingState:
    """The training state: optimizers, step, random numbers. `Engine.load_state_dict` checks that it
    fits the networks.
    """
    from safetensors.torch import load_file

    tensors = _read(checkpoint, "state.safetensors", load_file)

    def restore_order(found: dict[str, Any]) -> Any:
        if "$tensor" not in found:
            return {int(key) if key.isdecimal() else key: value for key, value in found.items()}
        order = found["$order"]
        original_order = sorted(range(len(order)), key=order.__getitem__)
        return tensors[found["$tensor"]].permute(original_order)

    parse = partial(json.loads, object_hook=restore_order)

    def read_state(path: Path) -> TrainingState:
        return parse_checked(_text(path), TrainingState, parse)

    return _read(checkpoint, "state.json", read_state)


def run_of(checkpoint: Path) -> Path:
    """The run folder that a checkpoint belongs to; the checkpoint itself where it has none."""
    run = checkpoint.parent.parent
    return run if (run / "recipe.toml").exists() else checkpoint


def load_into(module: torch.nn.Module, weights: Weights, where: str) -> None:
    """Load weights into a module by name; UserError that names the first tensor that differs or is
    not finite.
    """
    check_same(module.state_dict(), weights, where)
    parameters = (name for name, _ in module.named_parameters())
    wrong = [name for name in parameters if not weights[name].isfinite().all()]
    if wrong:
        raise UserError(
            f"'{wrong[0]}' in the checkpoint has values that are not finite"
            f" ({count_noun(wrong, 'tensor')} in all)",
            where=where,
            remedy="use an earlier checkpoint of the run",
        )

    module.load_state_dict(weights)


def check_same(expected: Weights, found: Weights, where: str) -> None:
    """Compare tensors with those expected by name, shape and type; UserError that names the first
    difference.
    """
    here = {name: kind_of(tensor) for name, tensor in expected.items()}
    there = {name: kind_of(tensor) for name, tensor in found.items()}
    differing = sorted(name for name in here | there if here.get(name) != there.get(name))
    if not differing:
        return

    name = differing[0]
    detail = (
        f"'{name}' is {there.get(name, 'missing')} in the checkpoint and"
        f" {here.get(name, 'unknown')} in this model"
    )
    raise UserError(
        f"the checkpoint belongs to another method or network: {detail}"
        f" ({count_noun(differing, 'difference')})",
        where=where,
        remedy=(
            "use the recipe that it was trained with, recipe.toml in its run folder. A checkpoint of an"
            " earlier version of gantk with a network that gantk no longer has needs that version, or"
            " a new training"
        ),
    )


def kind_of(value: Any) -> str:
    """`float32 [4, 1, 3, 3]` for a tensor, the type's name for anything else."""
    dtype = _dtype(value)
    if not dtype.startswith("torch."):
        return type(value).__name__
    return f"{dtype.removeprefix('torch.')} {list(value.shape)}"


def _dtype(value: Any) -> str:
    """`torch.float32`; "" for what is neither a tensor nor an array."""
    return str(getattr(value, "dtype", ""))


def _text(path: Path) -> str:
    return text_of(path, run_of(path.parent))


def _read(checkpoint: Path, name: str, read: Callable[[Path], T]) -> T:
    """The result of `read` for a file of a checkpoint; UserError where it is damaged, outside the
    run, or differs from its SHA-256 in meta.json.
    """
    path = checkpoint / name
    remedy = "use an earlier checkpoint of the run, or copy this one again"
    with reading_file(
        path.name,
        "a gantk checkpoint",
        where=str(path),
        remedy=f"{remedy}. gantk never loads pickled files",
    ):
        result = read(regular_file(path, run_of(checkpoint), MAX_TENSORS_BYTES))
        meta = {}
        seal = None
        with suppress(Exception):  # a damaged meta.json is told when it is read itself
            meta = json.loads(_text(path.with_name("meta.json")))
            seal = meta["sha256"][path.name]

        if seal:
            digest = _sha256_of_meta(meta) if path.name == "meta.json" else sha256_of(path)
            if seal != digest:
                raise ValueError("its SHA-256 differs from the one that was saved")

        return result
