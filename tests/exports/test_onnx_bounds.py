"""A .onnx file is checked before onnxruntime opens it: what it refers to, and the work it asks for."""

import itertools
from typing import Any

import numpy as np
import pytest

from gantk.errors import UserError

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from onnx import helper  # noqa: E402
from onnx.helper import make_node  # noqa: E402

from gantk.exports.onnx.model import Network  # noqa: E402


def onnx_model(*nodes, functions=(), initializer=(), axes=1):
    """A model of such nodes from `image` to `y`."""
    ends = [
        helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, axes * [None])
        for n in ("image", "y")
    ]
    graph = helper.make_graph(list(nodes), "graph", ends[:1], ends[1:], list(initializer))
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("own", 1)]
    return helper.make_model(graph, functions=list(functions), opset_imports=opsets, ir_version=9)


def doubling(depth: int):
    """Functions each of which calls the next one twice; the last adds."""
    made = []
    for number in range(depth):
        name, domain = ("Add", "") if number == depth - 1 else (f"f{number + 1}", "own")
        inputs = [["x", "x"], ["z", "z"]] if domain == "" else [["x"], ["z"]]
        nodes = [
            make_node(name, inputs[0], ["z"], domain=domain),
            make_node(name, inputs[1], ["out"], domain=domain),
        ]
        opsets = [helper.make_opsetid("", 18), helper.make_opsetid("own", 1)]
        made.append(helper.make_function("own", f"f{number}", ["x"], ["out"], nodes, opsets))
    return made


def external(*entries):
    """A weight in another file, whose place is given by (key, value) in any order."""
    tensor = onnx.TensorProto(name="w", dims=[1], data_type=onnx.TensorProto.FLOAT)
    tensor.data_location = onnx.TensorProto.EXTERNAL
    for key, value in entries:
        tensor.external_data.add(key=key, value=value)
    return tensor


def numbers(name: str, *values: int):
    """An initializer of whole numbers."""
    return onnx.numpy_helper.from_array(np.array(values, np.int64), name)


def hostile_models() -> dict[str, tuple[Any, str]]:
    """Models of less than a kilobyte, and the words of their refusal."""
    add = make_node("Add", ["image", "w"], ["y"])
    outside = external(("offset", "0"), ("location", "../secret"))
    constant = make_node("Constant", [], ["w"], value=outside)
    empty = helper.make_graph([], "body", [], [])

    def branch(inner):
        body = helper.make_graph([inner], "inner", [], [])
        return make_node("If", ["image"], ["y"], then_branch=body, else_branch=empty)

    def doubled(first: str, depth: int):
        names = [first, *(f"{first}{number}" for number in range(depth))]
        return [
            make_node("Concat", [one, one], [two], axis=0) for one, two in itertools.pairwise(names)
        ]

    f0 = make_node("f0", ["image"], ["y"], domain="own")
    loop = make_node("Loop", ["", ""], ["y"], body=empty)
    many = numbers("many", 10**7, 10**4)
    square = numbers("many", 30_000, 30_000)
    files = "weights in another file"
    control = "a loop or a branch"
    steps = "need more than"
    sizes = "may state sizes"
    return {
        "offset first": (onnx_model(add, initializer=[outside]), files),
        "in a constant": (onnx_model(constant, add), files),
        "in a branch": (onnx_model(branch(constant)), f"{files}|{control}"),
        "no place": (onnx_model(add, initializer=[external(("offset", "0"))]), files),
        "beside it": (onnx_model(add, initializer=[external(("location", "w.bin"))]), files),
        "loop": (onnx_model(loop), control),
        "loop in a branch": (onnx_model(branch(loop)), control),
        "map": (onnx_model(make_node("SequenceMap", ["image"], ["y"], body=empty)), control),
        "functions": (onnx_model(f0, functions=doubling(40)), "contains functions"),
        "unknown": (onnx_model(f0), "not known beforehand"),
        "fills memory": (
            onnx_model(make_node("ConstantOfShape", ["many"], ["y"]), initializer=[many]),
            steps,
        ),
        "tile": (
            onnx_model(
                make_node("Tile", ["image", "n"], ["y"]), initializer=[numbers("n", 10**11)]
            ),
            sizes,
        ),
        "expand": (
            onnx_model(
                make_node("Expand", ["image", "n"], ["y"]), initializer=[numbers("n", 10**10, 4)]
            ),
            steps,
        ),
        "concat": (onnx_model(*doubled("image", 60)), sizes),
        "concat of sizes": (
            onnx_model(
                *doubled("n", 60),
                make_node("Expand", ["image", "n59"], ["y"]),
                initializer=[numbers("n", 1)],
            ),
            sizes,
        ),
        "product": (
            onnx_model(
                make_node("ConstantOfShape", ["many"], ["c"]),
                *(make_node("MatMul", [f"c{n or ''}", "c"], [f"c{n + 1}"]) for n in range(9)),
                initializer=[square],
            ),
            steps,
        ),
        "einsum": (
            onnx_model(
                make_node("ConstantOfShape", ["n"], ["c"]),
                make_node("Einsum", ["c", "c", "c"], ["y"], equation="i,j,k->"),
                initializer=[numbers("n", 10**5)],
            ),
            sizes,
        ),
        "by values": (
            onnx_model(
                make_node("NonZero", ["image"], ["z"]), make_node("Expand", ["image", "z"], ["y"])
            ),
            "damaged",
        ),
        "size of values": (
            onnx_model(
                make_node("Cast", ["image"], ["n"], to=onnx.TensorProto.INT64),
                make_node("ConstantOfShape", ["n"], ["y"]),
            ),
            "not known beforehand",
        ),
    }


@pytest.mark.parametrize("name", hostile_models())
def test_onnx_files_that_lie_are_refused(name):
    model, words = hostile_models()[name]
    with pytest.raises(ValueError, match=words):
        Network(model, (4,))


def test_work_that_grows_faster_than_images_is_refused():
    """Whole sizes of a later image are bounded too, not only those of the first."""
    offset = numbers("offset", -1, -4)
    large = numbers("large", 10**12)
    one = numbers("one", 1)
    pixel = onnx.numpy_helper.from_array(np.ones((1, 1), np.float32), "pixel")
    model = onnx_model(
        make_node("Shape", ["image"], ["n"]),
        make_node("Add", ["n", "offset"], ["more"]),
        make_node("Mul", ["more", "large"], ["huge"]),
        make_node("Add", ["huge", "one"], ["times"]),
        make_node("Expand", ["pixel", "times"], ["y"]),
        initializer=[offset, large, one, pixel],
        axes=2,
    )
    network = Network(model, (1, 4))
    assert (network(np.ones((1, 4), np.float32)) == 1).all()

    with pytest.raises(UserError, match="need more than"):
        network(np.ones((1, 5), np.float32))
