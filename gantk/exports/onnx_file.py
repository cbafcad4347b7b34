"""A traced network as one ONNX file that carries what gantk knows of it, and nothing of the machine it was made on."""

from __future__ import annotations

import json
from importlib.util import find_spec
from typing import Any

from gantk.errors import GantkError, UserError
from gantk.exports.network import Program, quiet
from gantk.exports.onnx_model import EXTRA, INPUT, KEY, OUTPUT

OPSET = 18  # the first with every operator that our networks become; onnxruntime runs it from 1.14 on
NEEDED = ("onnx", "onnxscript", "onnxruntime")
LARGEST = 2**31 - 2**20  # bytes: protobuf's limit for one message, with room for the graph
AXES = {2: ("height", "width"), 3: ("depth", "height", "width")}


def require_onnx() -> None:
    """UserError where a package that is needed to write ONNX is not installed."""
    missing = [name for name in NEEDED if find_spec(name) is None]
    if missing:
        raise UserError(f"{' and '.join(missing)} needed to export ONNX, not installed", remedy=EXTRA)


def to_onnx(program: Program, names: tuple[str, ...] = (INPUT,), dims: int = 2) -> Any:
    """The network as an onnx.ModelProto in float32, weights inside; `names` are its inputs'.

    GantkError where the weights are too many for one file, UserError where ONNX has no operator for something.
    """
    import torch

    weights = sum(tensor.nbytes for tensor in program.exported.state_dict.values())
    if weights > LARGEST:
        raise GantkError(f"the network's weights take {weights / 2**30:.1f} GiB, and one ONNX file holds 2")
    try:
        with quiet():
            written = torch.onnx.export(
                program.exported,
                (),
                dynamo=True,
                opset_version=OPSET,
                input_names=list(names),
                output_names=[OUTPUT],
                verbose=False,
            )
        model = written.model_proto
    except Exception as error:  # the exporter wraps whatever goes wrong in errors of its own
        text = str(error.__cause__ or error).strip().splitlines() or [type(error).__name__]
        raise UserError(f"ONNX cannot hold this network: {text[0][:200]}") from error
    _tidy(model)
    _name_axes(model, program, dims)
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
        graph.name, graph.doc_string = "main", ""
        del graph.value_info[:]
        for thing in (graph, *graph.node, *graph.input, *graph.output, *graph.initializer):
            thing.doc_string = ""
            del thing.metadata_props[:]
        graphs += [attribute.g for node in graph.node for attribute in node.attribute if attribute.HasField("g")]
    for function in model.functions:
        function.doc_string = ""
        del function.metadata_props[:]
        for node in function.node:
            node.doc_string = ""
            del node.metadata_props[:]


def _name_axes(model: Any, program: Program, dims: int) -> None:
    """Names in place of numbers for the axes that may change: "batch", and "height", "width", ..."""
    for value in (*model.graph.input, *model.graph.output):
        axes = value.type.tensor_type.shape.dim
        if program.batch:
            axes[0].dim_param = "batch"
        for axis, name in zip(axes[2:] if program.sizes else (), AXES[dims], strict=False):
            axis.dim_param = name
