"""What a recipe or a .onnx file may say is bounded: numbers, texts, nesting, and what a training of
it would take.
"""

from typing import Annotated, get_args, get_origin

import pytest
from tiny import parts_with_options

from gantk import checked_recipe
from gantk.errors import UserError
from gantk.plugin.spec import options_of
from gantk.recipe.load import all_recipes, load_recipe
from gantk.recipe.tables import TABLES

BASE = {"method": {"name": "dualgan"}, "train": {"steps": 1}}
# numbers without a range
BY_NATURE = "low high black mean std range attention volumes planes format air bone within"


def numbers_without_range(hint: object) -> bool:
    if get_origin(hint) is Annotated:
        return False
    return hint in (int, float) or any(map(numbers_without_range, get_args(hint)))


PLACES = {(entry.kind, entry.name): entry.load for entry in parts_with_options()}
PLACES |= {table: lambda table=table: TABLES[table][1] for table in TABLES}


@pytest.mark.parametrize("key", PLACES, ids=str)
def test_every_number_that_a_recipe_can_say_has_a_range(key):
    target = PLACES[key]()
    hints = {name: hint for name, hint, _ in options_of(target)}

    assert {name for name, hint in hints.items() if numbers_without_range(hint)} <= {
        *BY_NATURE.split()
    }


SETTINGS = {
    **{f"data.split.seed={value}": "data.split.seed: " for value in (-1, 2**63, "9" * 30)},
    **{f"train.seed={value}": "train.seed: " for value in (-1, 2**63, "9" * 5000)},
    **{
        f"method.discriminator.width={value}": "method.discriminator.width: .*than or equal"
        for value in (0, -8, 10**6)
    },
    **{
        f"method.{name}=-1": f"method.{name}: .*than or equal to 0, not -1"
        for name in ("cycle", "defense", "pool")
    },
    'data.augment=[{name="hflip",p=2}]': "data.augment.p: .*less than or equal to 1, not 2",
    "method.generator.depth=10000000": "method.generator.depth: .*less than or equal to 12",
    "data.neighbours=1000000": "data.neighbours: .*128",
    "data.source.subjects=1000000000": "data.source.subjects: .*10000",
    "train.steps=1000000000000000000": "train.steps: .*1000000000,",
    "train.optimizer.lr=-1e-4": "train.optimizer.lr: .*or equal to 0, not -0.0001",
    "method.low_res_warmup=1.5": "method.low_res_warmup: .*less than or equal to 1, not 1.5",
    "train.optimizer.lr=nan": "train.optimizer.lr: .*finite number, not nan",
    "train.batch=inf": "train.batch: .*finite number, not inf",
    f"post={['style'] * 17}": "post: .*at most 16",
    f"data.size={[1] * 20_000}": "data.size: there are more than 10,000 values",
    f"summary={'x' * 5000}": "summary: a text has more than 4,096 characters",
    f"paper.a={'[' * 40}1{']' * 40}": "nested deeper than 16",
    'data.source={name="images", path="a\\u0000b"}': "path: a text is not valid UTF-8, or contains a NUL",
    ".".join("a" * 20) + "=1": "does not have the form key=value",
}


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda setting: setting[:40])
def test_a_setting_out_of_its_range_is_one_message_with_its_key(setting):
    with pytest.raises(UserError, match=SETTINGS[setting]) as raised:
        checked_recipe(BASE, None, [setting], None)
    assert len(str(raised.value)) < 500


FILES = {
    "nested": ("paper = " + "[" * 5000, "nested too deeply"),
    "dotted": ("a." * 60_000 + "b = 1", "nested deeper"),
    "digits": ("[data.split]\nseed = " + "9" * 5000, "digits"),
    "long": ("#" * 300_000, "longer than 262,144 bytes"),
    "nan": ("[paper]\nx = nan", r"paper\.x: .*finite number, not nan.*x\.toml:7"),
    "a day": ("[paper]\nx = 2020-01-01", r"paper\.x: a value of type date is not"),
}


@pytest.mark.parametrize("name", FILES)
def test_oversized_recipe_files_are_one_message(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text, words = FILES[name]
    (tmp_path / "x.toml").write_text('[method]\nname = "dualgan"\n[train]\nsteps = 1\n\n' + text)

    with pytest.raises(UserError, match=words):
        load_recipe("x.toml").check()


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (
            ["method.generator.width=10000"],
            r"needs at least [\d,.]+ GiB, but only .*64,.* M weights",
        ),
        (["method.pool=1000000000"], r"68,6[\d.,]+ GiB for image pools"),
        (["train.batch=1000000000"], r"137,[\d.,]+ GiB for the images of a step"),
    ],
)
def test_impossible_memory_is_refused_with_figures(settings, words, monkeypatch):
    from gantk.training import memory
    from gantk.training.memory import require_memory

    monkeypatch.setattr(memory, "most_memory", lambda: 12.0)
    with pytest.raises(UserError, match=words):
        require_memory(checked_recipe("dualgan_t1t2", None, settings, None)[1])


def test_what_is_counted_is_what_is_built():
    from gantk.machine.runtime import start
    from gantk.runs.trained import build_method
    from gantk.training.memory import cost_of

    for name in sorted(
        set(all_recipes()) & {"dualgan_t1t2", "dcgan_phantom", "progan_phantom", "cyclegan_25d"}
    ):
        model = checked_recipe(name, None, [], None)[1]
        count = 2 * model.data.neighbours + 1
        channels = dict.fromkeys(("a", "b", "image"), count)
        built = build_method(model, channels, ("x", "y"), (-1.0, 1.0), start("cpu", "fp32"))
        cost = cost_of(model)
        assert cost.weights == sum(weight.numel() for weight in built.parameters()) / 1e6
        assert cost.kept == sum(buffer.nbytes for buffer in built.buffers())


def test_onnx_graphs_that_fill_memory_are_refused(tmp_path):
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    import numpy as np

    from gantk.exports.onnx.model import call, open_session

    floats = onnx.TensorProto.FLOAT
    helper = onnx.helper
    ends = [helper.make_tensor_value_info(name, floats, ["n"]) for name in ("image", "y")]
    many = onnx.numpy_helper.from_array(np.array([10**7, 10**4], np.int64), "many")
    nodes = [
        helper.make_node("ConstantOfShape", ["many"], ["big"]),
        helper.make_node("ReduceSum", ["big"], ["s"]),
    ]
    nodes.append(helper.make_node("Add", ["image", "s"], ["y"]))
    graph = helper.make_graph(nodes, "bomb", ends[:1], ends[1:], [many])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    (tmp_path / "bomb.onnx").write_bytes(model.SerializeToString())

    with pytest.raises(UserError, match="cannot be read|smaller than requested"):
        call(open_session(tmp_path / "bomb.onnx"), np.zeros(1, np.float32))


def onnx_model(*nodes, functions=(), initializer=()):
    """A model of such nodes from `image` to `y`."""
    onnx = pytest.importorskip("onnx")
    helper = onnx.helper
    ends = [helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, ["n"]) for n in ("image", "y")]
    graph = helper.make_graph(list(nodes), "graph", ends[:1], ends[1:], list(initializer))
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("own", 1)]
    return helper.make_model(graph, functions=list(functions), opset_imports=opsets, ir_version=9)


def doubling(depth: int):
    """Functions each of which calls the next one twice; the last adds."""
    helper = pytest.importorskip("onnx").helper
    made = []
    for number in range(depth):
        name, domain = ("Add", "") if number == depth - 1 else (f"f{number + 1}", "own")
        inputs = [["x", "x"], ["z", "z"]] if domain == "" else [["x"], ["z"]]
        nodes = [
            helper.make_node(name, inputs[0], ["z"], domain=domain),
            helper.make_node(name, inputs[1], ["out"], domain=domain),
        ]
        opsets = [helper.make_opsetid("", 18), helper.make_opsetid("own", 1)]
        made.append(helper.make_function("own", f"f{number}", ["x"], ["out"], nodes, opsets))
    return made


def external(*entries):
    """A weight in another file, whose place is given by (key, value) in any order."""
    onnx = pytest.importorskip("onnx")
    tensor = onnx.TensorProto(name="w", dims=[1], data_type=onnx.TensorProto.FLOAT)
    tensor.data_location = onnx.TensorProto.EXTERNAL
    for key, value in entries:
        tensor.external_data.add(key=key, value=value)
    return tensor


HOSTILE_ONNX = ["offset first", "in a constant", "in a branch", "no place", "absolute", "a link"]
HOSTILE_ONNX += ["loop", "loop in a branch", "map", "doubling", "calls itself"]


@pytest.mark.parametrize("name", HOSTILE_ONNX)
def test_onnx_files_that_lie_are_refused(tmp_path, name):
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    from gantk.exports.onnx.model import open_session

    helper = onnx.helper
    (tmp_path / "secret").write_bytes(bytes(4))
    (folder := tmp_path / "in").mkdir()
    (folder / "link").symlink_to(tmp_path / "secret")
    add = helper.make_node("Add", ["image", "w"], ["y"])
    outside = external(("offset", "0"), ("location", "../secret"))
    constant = helper.make_node("Constant", [], ["w"], value=outside)
    empty = helper.make_graph([], "body", [], [])
    loop = helper.make_node("Loop", ["", ""], ["y"], body=empty)

    def branch(node):
        inner = helper.make_graph([node], "inner", [], [])
        return helper.make_node("If", ["image"], ["y"], then_branch=inner, else_branch=empty)

    call = helper.make_node("f0", ["image"], ["y"], domain="own")
    itself = doubling(1)
    itself[0].node[0].CopyFrom(helper.make_node("f0", ["x"], ["z"], domain="own"))
    files = {
        "offset first": onnx_model(add, initializer=[outside]),
        "in a constant": onnx_model(constant, add),
        "in a branch": onnx_model(branch(constant)),
        "no place": onnx_model(add, initializer=[external(("offset", "0"))]),
        "absolute": onnx_model(add, initializer=[external(("location", "/etc/hostname"))]),
        "a link": onnx_model(add, initializer=[external(("location", "link"))]),
        "loop": onnx_model(loop),
        "loop in a branch": onnx_model(branch(loop)),
        "map": onnx_model(helper.make_node("SequenceMap", ["image"], ["y"], body=empty)),
        "doubling": onnx_model(call, functions=doubling(40)),
        "calls itself": onnx_model(call, functions=itself),
    }
    (folder / "x.onnx").write_bytes(files[name].SerializeToString())

    words = "weights outside its folder|contains a loop|unfold to more than"
    with pytest.raises(UserError, match=words):
        open_session(folder / "x.onnx")


def test_onnx_files_with_functions_and_own_weights_are_read(tmp_path):
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    import numpy as np

    from gantk.exports.onnx.model import call, open_session

    helper = onnx.helper
    nodes = [
        helper.make_node("f0", ["image"], ["z"], domain="own"),
        helper.make_node("Add", ["z", "w"], ["y"]),
    ]
    (tmp_path / "w.bin").write_bytes(np.float32(1.5).tobytes())
    own = external(("location", "w.bin"), ("offset", "0"), ("length", "4"))
    model = onnx_model(*nodes, functions=doubling(3), initializer=[own])
    (tmp_path / "x.onnx").write_bytes(model.SerializeToString())

    found = call(open_session(tmp_path / "x.onnx"), np.ones(1, np.float32))

    assert found == 2.0**8 + 1.5
