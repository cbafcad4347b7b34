"""The exporter "onnx": one file that carries what gantk knows of a model, and nothing of the machine it was made on."""

from __future__ import annotations

import json
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gantk.errors import GantkError, UserError
from gantk.exports.exporting import Direction, Say
from gantk.exports.network import Program, exact_norms, programs, quiet, sizes_of
from gantk.exports.onnx_model import EXTRA, INPUT, KEY, OUTPUT, call, open_session
from gantk.files import write_file

OPSET = 18  # the first with every operator that our networks become; onnxruntime runs it from 1.14 on
LARGEST = 2**31 - 2**20  # bytes: protobuf's limit for one message, with room for the graph
LARGE = 2**14  # positions of a map, from which on onnxruntime's own norms do not add up well enough
AXES = {2: ("height", "width"), 3: ("depth", "height", "width")}


class Onnx:
    """One .onnx file; `gantk translate model.onnx IN OUT` needs onnxruntime alone, without PyTorch."""

    def check(self, out: Path) -> None:
        """UserError where nothing can be written to `out`, before anything is loaded."""
        missing = [name for name in ("onnx", "onnxscript", "onnxruntime") if find_spec(name) is None]
        if missing:
            raise UserError(f"{' and '.join(missing)} needed to export ONNX, not installed", remedy=EXTRA)
        if out.suffix.lower() != ".onnx":
            raise UserError(f"'{out.name}' does not end in .onnx", where="--out", remedy="name a file such as t2.onnx")
        if out.is_dir():
            raise UserError(f"'{out}' exists already", where="--out", remedy="name a file")

    def write(self, direction: Direction, out: Path, tolerance: float, say: Say) -> Path:
        """The most general form that exports and answers as PyTorch does, at `out`."""
        method, data, inputs = direction.network.method, direction.translator.model.data, direction.probes.inputs
        window = tuple(method.geometry.size)
        names = ("noise", "label")[: len(inputs)] if direction.samples else (INPUT,)
        large = np.prod(window) > LARGE or data.fit == "crop" or window != tuple(data.size)
        network = exact_norms(direction.network) if large else direction.network
        failure = GantkError(f"{direction.name} could not be exported")
        example = tuple(torch.from_numpy(each[:2]) for each in inputs)
        for program in programs(network, example, None if direction.samples else sizes_of(method)):
            try:
                model = to_onnx(program, names, data.dims)
                answer = partial(call, open_session(model.SerializeToString()), one_by_one=not program.batch)
                larger = program.sizes["multiple"] if program.sizes else 0
                parity = direction.checked(answer, "ONNX file", tolerance, batches=program.batch, larger=larger)
            except GantkError as error:  # a form with less freedom may still be right
                failure = error
                continue
            say(f"parity   ONNX against PyTorch: {parity.line()}")
            say(f"accepts  {accepted(program)}")
            free = {"batch": program.batch, "sizes": program.sizes, "limits": list(program.limits)}
            about = {"opset": OPSET, "tolerance": tolerance, "parity": vars(parity), "free": free}
            content = with_metadata(model, direction.state() | about, f"gantk: {direction.name}")
            write_file(out, content)
            say(f"written  {out} ({len(content) / 2**20:.1f} MiB)")
            return out
        raise failure


def accepted(program: Program) -> str:
    """What may be given to an exported network, in words."""
    batch, sizes = "any number of images" if program.batch else "one image at a time", program.sizes
    if sizes is None:
        return f"{batch}, at the size it was trained at"
    rule = f"a multiple of {sizes['multiple']}" if sizes["multiple"] > 1 else "of any length"
    return f"{batch}, every side {rule}, at least {sizes['smallest']}"


def to_onnx(program: Program, names: tuple[str, ...], dims: int) -> Any:
    """The network as an onnx.ModelProto in float32, weights inside; `names` are its inputs'.

    GantkError where the weights are too many for one file, UserError where ONNX has no operator for something.
    """
    weights = sum(tensor.nbytes for tensor in program.exported.state_dict.values())
    if weights > LARGEST:
        raise GantkError(f"the network's weights take {weights / 2**30:.1f} GiB, and one ONNX file holds 2")
    options = {"dynamo": True, "opset_version": OPSET, "verbose": False}
    try:
        with quiet():
            written = torch.onnx.export(program.exported, (), input_names=names, output_names=[OUTPUT], **options)
        model = written.model_proto
    except Exception as error:  # the exporter wraps whatever goes wrong in errors of its own
        text = str(error.__cause__ or error).strip().splitlines() or [type(error).__name__]
        raise UserError(f"ONNX cannot hold this network: {text[0][:200]}") from error
    _tidy(model)
    for value in (*model.graph.input, *model.graph.output):  # "batch", "height", "width" in place of numbers
        axes = value.type.tensor_type.shape.dim
        if program.batch:
            axes[0].dim_param = "batch"
        for axis, name in zip(axes[2:] if program.sizes else (), AXES[dims], strict=False):
            axis.dim_param = name
    return model


def with_metadata(model: Any, meta: dict[str, Any], summary: str) -> bytes:
    """The file's bytes, `meta` under the key "gantk" and `summary` for whoever opens it in a viewer; checked."""
    import onnx

    del model.metadata_props[:]
    entry = model.metadata_props.add()
    entry.key, entry.value = KEY, json.dumps(meta)
    model.doc_string = summary
    onnx.checker.check_model(model)
    return model.SerializeToString()


def _tidy(model: Any) -> None:
    """Take out what exporters note for themselves: source lines with the paths of this machine, and shapes inside."""
    graphs = [model.graph]
    while graphs:
        graph = graphs.pop()
        graph.name = "main"
        del graph.value_info[:]
        for thing in (graph, *graph.node, *graph.input, *graph.output, *graph.initializer):
            thing.doc_string = ""
            del thing.metadata_props[:]
        graphs += [attribute.g for node in graph.node for attribute in node.attribute if attribute.HasField("g")]
    for thing in [each for function in model.functions for each in (function, *function.node)]:
        thing.doc_string = ""
        del thing.metadata_props[:]
