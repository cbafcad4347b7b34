"""Checks a .onnx file before onnxruntime opens it: one graph of standard operators that holds all
its weights, and whose work follows from the size of its input and is bounded.

A kilobyte may state work that never ends: loops, functions that unfold to millions of nodes,
tensors that double at each node. So the size of each node's outputs is inferred from the size of
the images, node by node, and the work is summed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from math import prod
from typing import Any

import numpy as np
import onnx
from onnx import defs, numpy_helper
from onnx.helper import make_tensor_type_proto
from onnx.reference import ReferenceEvaluator
from onnx.shape_inference import infer_node_outputs

Shape = tuple[int, ...]
MAX_NODES = 10_000  # the largest graph of ours has 2,000
MAX_SIZE_VALUES = 1024  # values of a tensor that may state sizes; ours have 10
# multiply-adds or moved values for each value of the input; a ResNet-9 of width 64 needs 900,000
MAX_WORK_PER_VALUE = 20_000_000
FREE_WORK = 10**9  # that an input of any size may need
# operators that pass over their inputs and outputs a few times
LINEAR = frozenset(
    re.findall(
        r"\w+",
        """
    Abs Add And BatchNormalization Cast Ceil Clip Concat Constant ConstantOfShape Cos Div Elu Equal
    Erf Exp Expand Flatten Floor Gather Gelu GlobalAveragePool GlobalMaxPool Greater GreaterOrEqual
    GroupNormalization HardSigmoid HardSwish Identity InstanceNormalization LayerNormalization
    LeakyRelu Less LessOrEqual Log LogSoftmax Max Mean Min Mish Mod Mul Neg Not Or PRelu Pad Pow
    Range Reciprocal ReduceL1 ReduceL2 ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum
    ReduceSumSquare Relu Reshape Resize Round Selu Shape Sigmoid Sign Sin Size Slice Softmax Softplus
    Split Sqrt Squeeze Sub Sum Tanh Tile Transpose Unsqueeze Where
    """,
    )
)
# operators that compute sizes from sizes: evaluated where their inputs are known
OF_SIZES = frozenset(
    re.findall(
        r"\w+",
        """
    Add Cast Ceil Concat Constant ConstantOfShape Div Equal Expand Floor Gather Identity Max Min Mod
    Mul Neg Range ReduceProd Reshape Shape Size Slice Split Squeeze Sub Unsqueeze Where
    """,
    )
)


def require_plain_graph(model: onnx.ModelProto) -> None:
    """ValueError where a model refers to other files, contains functions, or nodes with graphs of
    their own.
    """
    for message in _messages(model):
        if isinstance(message, onnx.TensorProto) and message.data_location == message.EXTERNAL:
            raise ValueError("it refers to weights in another file")
        if isinstance(message, onnx.AttributeProto) and (message.HasField("g") or message.graphs):
            raise ValueError("it contains a loop or a branch, which may never end")

    if model.functions:
        raise ValueError("it contains functions, which may unfold to any number of nodes")
    if len(model.graph.node) > MAX_NODES:
        raise ValueError(f"its graph has more than {MAX_NODES:,} nodes")


def require_bounded_work(model: onnx.ModelProto, size: Sequence[int]) -> None:
    """ValueError where running a plain graph on an input of `size` (N, C, *spatial) would take more
    than `MAX_WORK_PER_VALUE` for each of its values, or where its work does not follow from the size.
    """
    versions = {each.domain: each.version for each in model.opset_import}
    sizes = _Sizes(model.graph, tuple(size))
    work = 0
    limit = FREE_WORK + MAX_WORK_PER_VALUE * prod(size)
    for node in model.graph.node:
        try:
            schema = defs.get_schema(node.op_type, versions[node.domain], node.domain)
        except (KeyError, defs.SchemaError):
            raise ValueError(f"it contains an unknown operator, '{node.op_type[:40]}'") from None
        sizes.infer(schema, node)
        work += _work(node, sizes)
        if work > limit:
            raise ValueError(
                f"'{node.op_type}' and the nodes before it need more than {limit:.0e} steps for an"
                f" input of {list(size)}, which no network of gantk does"
            )


class _Sizes:
    """The types of a graph's values, as far as its nodes are inferred, and the values of small ones
    that are known without running it.
    """

    def __init__(self, graph: onnx.GraphProto, size: Shape):
        self.types: dict[str, onnx.TypeProto] = {}
        self._values: dict[str, np.ndarray] = {}
        for tensor in graph.initializer:
            self._add(tensor.name, make_tensor_type_proto(tensor.data_type, tensor.dims))
            if prod(tensor.dims) <= MAX_SIZE_VALUES:
                self._values[tensor.name] = numpy_helper.to_array(tensor)
        for image in graph.input:
            if image.name not in self.types:
                kind = image.type.tensor_type.elem_type
                self._add(image.name, make_tensor_type_proto(kind, size))

    def __getitem__(self, name: str) -> Shape:
        """The size of a value; ValueError where no node gives it."""
        if name not in self.types:
            raise ValueError(f"no node of it gives '{name[:40]}'")
        return tuple(side.dim_value for side in self.types[name].tensor_type.shape.dim)

    def infer(self, schema: defs.OpSchema, node: onnx.NodeProto) -> None:
        """Add the outputs of a node; ValueError where their sizes do not follow from the inputs'."""
        names = list(filter(None, node.input))
        known = {name: self._values[name] for name in names if name in self._values}
        if node.op_type != "Resize" and any(0 in self[name] for name in names):
            # onnx 1.23 ends the process at a `Slice` of an empty tensor
            raise ValueError(f"the input of '{node.op_type}' is empty")
        try:
            outputs = infer_node_outputs(
                schema,
                node,
                {name: self.types[name] for name in names},
                {name: numpy_helper.from_array(value) for name, value in known.items()},
            )
        except Exception as error:  # the library raises many kinds for a damaged node
            raise ValueError(f"a node '{node.op_type}' in it is damaged") from error

        named = list(filter(None, node.output))
        for name in named:
            self._add(name, outputs.get(name, onnx.TypeProto()))
        if node.op_type in ("Shape", "Size"):  # they need no values
            known = {name: np.broadcast_to(np.float32(0), self[name]) for name in names}
        if node.op_type in OF_SIZES and len(known) == len({*names}) and self._are_small(named):
            with np.errstate(all="ignore"):
                values = ReferenceEvaluator(node).run(None, known)
            self._values |= zip(node.output, map(np.asarray, values), strict=True)

    def _are_small(self, names: Sequence[str]) -> bool:
        return all(prod(self[name]) <= MAX_SIZE_VALUES for name in names)

    def _add(self, name: str, kind: onnx.TypeProto) -> None:
        if name in self.types:
            raise ValueError(f"two of its values have the same name, '{name[:40]}'")
        sides = kind.tensor_type.shape.dim
        is_known = kind.tensor_type.HasField("shape") and all(side.dim_value >= 0 for side in sides)
        if not is_known or not all(side.HasField("dim_value") for side in sides):
            raise ValueError(f"the size of '{name[:40]}' in it is not known beforehand")
        self.types[name] = kind


def _work(node: onnx.NodeProto, sizes: _Sizes) -> int:
    """An upper bound of the multiply-adds and moved values of a node, up to a small factor."""
    inputs = [sizes[name] for name in node.input if name]
    outputs = [sizes[name] for name in node.output if name]
    moved = sum(map(prod, [*inputs, *outputs]))
    if node.op_type in LINEAR:
        return moved
    if node.op_type == "Conv":
        return moved + prod(outputs[0]) * prod(inputs[1][1:])
    if node.op_type == "ConvTranspose":
        return moved + prod(inputs[0]) * prod(inputs[1][1:])
    if node.op_type == "MatMul":
        return moved + prod(outputs[0]) * inputs[0][-1]
    if node.op_type == "Gemm":
        return moved + prod(outputs[0]) * max(inputs[0])
    if node.op_type in ("AveragePool", "LpPool", "MaxPool"):
        window = next(each.ints for each in node.attribute if each.name == "kernel_shape")
        return moved + prod(outputs[0]) * prod(window)
    # any other: each output value may depend on each combination of input values
    return moved + sum(map(prod, outputs)) * prod(map(prod, inputs))


def _messages(message: Any) -> Iterator[Any]:
    """A message of a protobuf file, and all messages in it at any depth."""
    yield message
    for field, value in message.ListFields():
        if field.message_type is not None:
            for each in [value] if hasattr(value, "ListFields") else value:
                yield from _messages(each)
