"""Exports one direction of a model as an ONNX graph: the most general one whose outputs equal
PyTorch's.
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import warnings
from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import onnx
import torch
from torch import Tensor, nn

from gantk import __version__
from gantk.data.intensity import IntensityMapping
from gantk.errors import GantkError, UserError, reading_file
from gantk.exports.exporting import TOLERANCE, Direction
from gantk.exports.onnx.metadata import FORMAT, Metadata
from gantk.exports.onnx.model import KEY, Network
from gantk.inference.windows import Sides, accepted_sides
from gantk.method import OTHER, direction_to

OPSET = 18  # the first with every operator that our networks need; onnxruntime runs it from 1.14 on
MAX_SIDE_PIXELS = 16384  # largest side in pixels that is declared for a network of any size
AXES = ("depth", "height", "width")


def checked_file(direction: Direction) -> tuple[bytes, str, str]:
    """The file's bytes, the difference of its outputs from PyTorch's, and the inputs it accepts, in
    words.
    """
    method = direction.network.method
    data = direction.translator.recipe.data
    window = tuple(method.geometry.size)
    other_sizes = data.fit == "crop" or window != tuple(data.size)
    sizes = sizes_of(direction.network, torch.from_numpy(direction.images))
    failure = GantkError(f"{direction.name} could not be exported")
    # (whether any number of images, which sizes): the freer one if it works
    for batch, free in ((True, sizes), (False, None)):
        try:
            model = to_onnx(direction, batch, free)
            with reading_file("the model", "an ONNX model"):
                exported = Network(model, direction.images[:1].shape)
            parity = direction.compare_outputs(
                partial(exported, one_by_one=not batch),
                "ONNX file",
                batches=batch,
                larger=free.multiple if free else 0,
            )
        except GantkError as error:  # a graph with fixed batch or size may still pass
            failure = error
            continue

        about = {
            "tolerance": TOLERANCE,
            "parity": parity,
            "free": {"batch": batch, "sizes": free},
        }
        model.metadata_props.add(key=KEY, value=json.dumps(state(direction, about)))
        model.doc_string = f"gantk: {direction.name}"
        onnx.checker.check_model(model)
        if free:
            rule = f"every side a multiple of {free.multiple}, at least {free.smallest}"
        else:
            rule = "at one size"
            if other_sizes:
                rule += "; other sizes in windows with their own norms, unlike the run"

        return (
            model.SerializeToString(),
            parity["line"],
            f"{'any number of images' if batch else 'one image'}, {rule}",
        )

    raise failure


def state(direction: Direction, about: dict[str, Any]) -> dict[str, Any]:
    """The metadata stored beside the network, for JSON: `Metadata`, and what describes the file."""
    translator = direction.translator
    letter = direction.letter
    model = translator.recipe
    frame = direction.frame
    # what changes results after the network, and is not in the file's graph
    left_out = [part.name for part in model.post]
    if frame.masked:
        left_out.append("masked")
    if frame.detail == "guided":
        left_out.append("detail")
    whole = {
        "format": FORMAT,
        "opset": OPSET,
        "gantk": __version__,
        "torch": torch.__version__,
        "method": model.method.name,
        "trained": {"step": direction.saved.step, "sha256": translator.identity()["sha256"]},
        "left_out": left_out,
        "contrasts": {"source": frame.sources, "target": frame.targets},
        "intensity": {
            "source": translator.intensity[OTHER[letter]].state(),
            "target": direction.target.state(),
        },
        "corners": {
            "source": corners_of(translator.intensity[OTHER[letter]]),
            "target": corners_of(direction.target),
        },
        "window": tuple(translator.method.geometry.size),
        "direction": direction_to(letter),
        "label": direction.label,
        "frame": frame,
        "overlap": model.translate.overlap,
    } | about
    return whole | Metadata.model_validate(whole).model_dump(mode="json")


def corners_of(mapping: IntensityMapping) -> list[list[list[float]]]:
    """Of each contrast the native and the network values that its piecewise linear scale joins."""
    return [[np.asarray(ends).tolist() for ends in line.corners()] for line in mapping.lines]


def sizes_of(network: nn.Module, images: Tensor) -> Sides | None:
    """The image sides that a network accepts; None where it accepts only
    those of `images`.
    """
    size = images.shape[2:]
    sides = accepted_sides(network, images.shape[1], len(size))
    if sides is None:
        return None
    smallest = max(sides.smallest, 2 * sides.multiple)
    if smallest > min(size) or any(side % sides.multiple for side in size):
        return None
    return Sides(sides.multiple, smallest)


def to_onnx(direction: Direction, batch: bool, sizes: Sides | None) -> Any:
    """The network of a direction as an onnx.ModelProto in float32 with its weights; UserError where torch cannot
    export it.
    """
    images = torch.from_numpy(direction.images[: 2 if batch else 1])
    axis_names = {0: "batch"} if batch else {}
    free = {0: torch.export.Dim("batch", min=1, max=4096)} if batch else {}
    if sizes:
        step = sizes.multiple
        least = max(2, sizes.smallest // step)
        most = MAX_SIDE_PIXELS // step
        for axis, name in enumerate(AXES[5 - images.ndim :], 2):
            free[axis] = step * torch.export.Dim(f"side{axis}", min=least, max=most)
            axis_names[axis] = name

    model = _export_model(direction.network, images, free)
    _remove_notes(model)
    # "batch", "height", "width" in place of numbers
    for value in (*model.graph.input, *model.graph.output):
        for axis, name in axis_names.items():
            value.type.tensor_type.shape.dim[axis].dim_param = name

    return model


def _export_model(network: nn.Module, images: Tensor, free: dict[int, Any]) -> Any:
    """The network as torch exports it; UserError where it cannot."""
    hooks = nn.modules.module._global_buffer_registration_hooks
    before = set(hooks)
    try:
        with quiet(), torch.no_grad():
            program = torch.export.export(network, (images,), dynamic_shapes=(free,), strict=False)
            written: Any = torch.onnx.export(
                program,
                (),
                input_names=["image"],
                output_names=["translated"],
                dynamo=True,
                opset_version=OPSET,
                verbose=False,
            )

        return written.model_proto
    except Exception as error:  # export can raise any exception of the network's code
        # left by torch.export; it would break every later torch.compile
        for hook in set(hooks) - before:
            del hooks[hook]
        lines = str(error.__cause__ or error).strip().splitlines() or [type(error).__name__]
        raise UserError(
            "the translation does more than run networks, or the networks cannot be"
            f" traced: {lines[0][:200]}",
            remedy="translate with the run folder instead",
        ) from error


def _remove_notes(model: Any) -> None:
    """Remove source lines with this machine's paths, and inner shapes."""
    graph = model.graph
    parts = [*graph.input, *graph.output, *graph.initializer]
    for each in (graph, *model.functions):
        del each.value_info[:], each.metadata_props[:]
        parts += [each, *each.node]

    for part in parts:
        part.doc_string = ""
        del part.metadata_props[:]


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Suppress the prints, logs and warnings of torch's exporters inside this context."""
    silent = io.StringIO()
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(silent),
            contextlib.redirect_stderr(silent),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
