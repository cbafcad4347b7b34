"""Checks a .onnx file before onnxruntime opens it: one graph of standard operators that holds all
its weights, and whose work follows from the size of its input and is bounded.

A kilobyte may state work that never ends: loops, functions that unfold to millions of nodes,
tensors that double at each node. So the size of every value is inferred from that of the images, and
the work of all nodes is summed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from math import prod
from typing import Any

import numpy as np
import onnx
from onnx.helper import make_node, make_tensor_value_info
from onnx.numpy_helper import from_array
from onnx.shape_inference import infer_shapes

Shape = tuple[int, ...]
MAX_NODES = 10_000  # the largest graph of ours has 2,000
MAX_SIZE_VALUES = 4096  # values of a tensor that may state sizes; ours have 10
FIRST_AXIS = "the first axis"  # name of a list of one 0
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
    sizes = _sizes_of_values(model, size)
    work = 0
    limit = FREE_WORK + MAX_WORK_PER_VALUE * prod(size)
    for node in model.graph.node:
        inputs, outputs = (
            [sizes[name] for name in names if name] for names in (node.input, node.output)
        )
        work += _work(node, inputs, outputs)
        if work > limit:
            raise ValueError(
                f"'{node.op_type}' and the nodes before it need more than {limit:.0e} steps for an"
                f" input of {list(size)}, which no network of gantk does"
            )


def _sizes_of_values(model: onnx.ModelProto, size: Sequence[int]) -> dict[str, Shape]:
    """The size of each value of a graph whose image has this size; ValueError where one does not
    follow from it.
    """
    small, sizes = _without_large_weights(model, size)
    # tensors of one axis may state sizes: the last time onnx computes them, if they are small
    for passed in range(3):
        try:
            values = infer_shapes(small, strict_mode=True, data_prop=passed == 2).graph.value_info
        except Exception as error:  # the library raises many kinds for a damaged node
            raise ValueError("a node in it is damaged") from error
        for value in values:
            kind = value.type.tensor_type
            sides = kind.shape.dim
            if kind.HasField("shape") and all(side.HasField("dim_value") for side in sides):
                sizes[value.name] = tuple(side.dim_value for side in sides)
            count = prod(sizes.get(value.name, (2**63,)))
            if passed and len(sides) < 2 and not count <= MAX_SIZE_VALUES:
                raise ValueError(
                    f"'{value.name[:40]}' in it may state sizes, but has more than"
                    f" {MAX_SIZE_VALUES:,} values, or as many as is not known beforehand"
                )
        for node in small.graph.node:
            # onnx computes with a number that is unsqueezed, not with one reshaped to a list
            if node.op_type == "Reshape" and sizes.get(node.input[0]) == ():
                node.CopyFrom(make_node("Unsqueeze", [node.input[0], FIRST_AXIS], node.output))

    for name in (name for node in model.graph.node for name in (*node.input, *node.output)):
        if name not in sizes:
            raise ValueError(f"the size of '{name[:40]}' in it is not known beforehand")
    return sizes


def _without_large_weights(
    model: onnx.ModelProto, size: Sequence[int]
) -> tuple[onnx.ModelProto, dict[str, Shape]]:
    """A graph whose image has this size, as a constant where nodes ask for it, with large weights as
    further inputs; and the sizes of all its inputs and weights.
    """
    small = onnx.ModelProto(ir_version=model.ir_version, opset_import=model.opset_import)
    small.graph.name = "graph"
    small.graph.initializer.append(from_array(np.array([0]), FIRST_AXIS))
    sizes: dict[str, Shape] = {"": ()}
    for tensor in model.graph.initializer:
        sizes[tensor.name] = tuple(tensor.dims)
        if prod(tensor.dims) <= MAX_SIZE_VALUES:
            small.graph.initializer.append(tensor)
        else:
            info = make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
            small.graph.input.append(info)
    images = set()
    for image in model.graph.input:
        if image.name not in sizes:
            sizes[image.name] = tuple(size)
            kind = image.type.tensor_type.elem_type
            small.graph.input.append(make_tensor_value_info(image.name, kind, size))
            images.add(image.name)
    for node in model.graph.node:
        if node.op_type == "Shape" and node.input[0] in images:
            part = {each.name: each.i for each in node.attribute}
            sides = np.array(size[part.get("start", 0) : part.get("end")], np.int64)
            small.graph.initializer.append(from_array(sides, node.output[0]))
            sizes[node.output[0]] = sides.shape
        else:
            small.graph.node.append(node)
    return small, sizes


def _work(node: onnx.NodeProto, inputs: Sequence[Shape], outputs: Sequence[Shape]) -> int:
    """An upper bound of the multiply-adds and moved values of a node, up to a small factor."""
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
