"""gantk in somebody's program: every public function works under whatever is set there, and leaves
it as it was.
"""

import contextlib
import pickle
import random
import sys
import types
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from tiny import TINY

import gantk
from gantk.formats.image import Image
from gantk.runs.schemas import read_results

CPU = {"device": "cpu"}
SCAN = np.random.default_rng(0).random((32, 32), np.float32)


def quiet(line):
    pass


# ---- what a program may have set


@contextlib.contextmanager
def changed(read, change, value):
    before = read()
    change(value)
    try:
        yield
    finally:
        change(before)


@contextlib.contextmanager
def warnings_as_errors():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def deterministic(value):
    torch.use_deterministic_algorithms(value)


def convolutions(value):
    torch.backends.mkldnn.conv.fp32_precision = value


def closed_output():
    closed = Path("/dev/null").open("w")  # noqa: SIM115 - closed at once
    closed.close()
    return contextlib.redirect_stdout(closed)


STATES = {
    "nothing": contextlib.nullcontext,
    "float64": lambda: changed(torch.get_default_dtype, torch.set_default_dtype, torch.float64),
    "inference mode": torch.inference_mode,
    "no gradients": torch.no_grad,
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
    "another device": lambda: torch.device("meta"),
    "deterministic": lambda: changed(
        torch.are_deterministic_algorithms_enabled, deterministic, True
    ),
    "low precision": lambda: changed(
        torch.get_float32_matmul_precision, torch.set_float32_matmul_precision, "medium"
    ),
    "low precision of convolutions": lambda: changed(
        lambda: torch.backends.mkldnn.conv.fp32_precision, convolutions, "bf16"
    ),
    "NumPy raises": lambda: np.errstate(all="raise"),
    "warnings are errors": warnings_as_errors,
    "closed output": closed_output,
    "no output": lambda: contextlib.redirect_stdout(None),
}
NOT_TOGETHER = ("nothing", "no output", "another device")


@contextlib.contextmanager
def together():
    with contextlib.ExitStack() as states:
        for name in STATES.keys() - set(NOT_TOGETHER):
            states.enter_context(STATES[name]())
        yield


def settings():
    """What torch, NumPy and Python keep globally."""
    return {
        "torch's random numbers": torch.get_rng_state().tolist(),
        "Python's": random.getstate(),
        "NumPy's": str(np.random.get_state()),
        "type": torch.get_default_dtype(),
        "device": torch.get_default_device(),
        "modes": (torch.is_grad_enabled(), torch.is_inference_mode_enabled()),
        "autocast": torch.is_autocast_enabled("cpu"),
        "deterministic": (
            torch.are_deterministic_algorithms_enabled(),
            torch.is_deterministic_algorithms_warn_only_enabled(),
        ),
        "precision": (
            torch.get_float32_matmul_precision(),
            torch.backends.mkldnn.conv.fp32_precision,
            torch.backends.cudnn.allow_tf32,
            torch.backends.cudnn.benchmark,
        ),
        "threads": torch.get_num_threads(),
        "errors": np.geterr(),
        "filters": [str(each) for each in warnings.filters],
        "output": (sys.stdout, sys.stderr),
    }


# ---- every public function, in a call that answers


class Prepared:
    """A trained run and files."""

    def __init__(self, folder):
        self.folder = folder
        self.run = gantk.run(TINY, out=folder / "run", say=quiet, **CPU).path
        self.slow = gantk.run(TINY, out=folder / "stopped", say=quiet, **CPU).path
        judge = {"name": "dcgan", "width": 4, "depth": 3}
        method = {"name": "dcgan", "width": 4, "discriminator": judge}
        data = {**TINY["data"], "domains": ["T1"]}
        noise = {"method": method, "data": data, "train": {"steps": 0}}
        self.noise = gantk.run(noise, out=folder / "noise", say=quiet, **CPU).path
        for name, count in (
            ("one", 2),
            ("two", 2),
            ("many", 12),
            ("pairs/T1", 3),
            ("pairs/T2", 3),
        ):
            (folder / name).mkdir(parents=True)
            for number in range(count):
                drawn = np.random.default_rng(number).integers(0, 200, (1, 32, 32))
                image = Image((drawn + (name == "two")).astype(np.float32))
                gantk_write(folder / name / f"p{number}.png", image)
        with zipfile.ZipFile(folder / "a.zip", "w") as archive:
            archive.writestr("a.txt", "text")
        self.calls = 0

    def new(self, name=""):
        self.calls += 1
        return self.folder / f"new-{self.calls}{name}"


def gantk_write(path, image):
    from gantk.formats.files import write

    write(path, image)


SYSTEMS = pd.DataFrame(
    [
        {
            "system": system,
            "patient": f"p{n}",
            "direction": "d",
            "metric": "psnr",
            "value": n + shift,
        }
        for shift, system in enumerate(("a", "b"))
        for n in range(8)
    ]
)


def stepped(p):
    with gantk.training(TINY, data=Batches(), out=p.new(), **CPU) as training:
        return [float(step.losses["generators/cycle_a"]) for step in training]


class Batches:
    def __iter__(self):
        yield {name: torch.linspace(-1, 1, 2048).reshape(2, 1, 32, 32) for name in ("T1", "T2")}


CHEAP = {
    "check": lambda p: str(gantk.check(p.folder / "one")["images"]),
    "checked_recipe": lambda p: gantk.checked_recipe(TINY, None, (), None)[1].train.steps,
    "code_span": lambda p: str(gantk.code_span("a|b")),
    "compare_systems": lambda p: len(gantk.compare_systems(SYSTEMS, {"psnr": True}).tests),
    "correct_tests": lambda p: gantk.correct_tests([]),
    "escape_markdown": lambda p: gantk.escape_markdown("a_b"),
    "load": lambda p: gantk.load(p.run, **CPU).translate(SCAN, to="T2"),
    "load_recipe": lambda p: gantk.load_recipe("dualgan_t1t2").name,
    "markdown_table": lambda p: gantk.markdown_table(("a",), [("b",)]),
    "registry": lambda p: len(gantk.registry()["loss"]),
    "resample_onto": lambda p: (
        gantk.resample_onto(
            *[Image(SCAN[None, None], np.diag([side, 1.0, 1.0, 1.0])) for side in (1.0, 2.0)]
        ).pixels
    ),
    "score_table": lambda p: gantk.score_table(read_results(p.run)),
    "translate": lambda p: gantk.translate(
        p.run, p.folder / "one" / "p0.png", p.new(".png"), say=quiet, **CPU
    )[0].read_bytes(),
    "unpack": lambda p: gantk.unpack(p.folder / "a.zip", p.new()),
}
DEAR = {
    "compare": lambda p: gantk.compare(p.folder / "one", p.folder / "two", say=quiet, **CPU)[
        "metrics"
    ],
    "compare_models": lambda p: (
        gantk.compare_models([p.run, p.slow], p.folder / "pairs", say=quiet, **CPU).sentences
    ),
    "evaluate": lambda p: gantk.evaluate(p.run, say=quiet, **CPU)["metrics"],
    "export": lambda p: gantk.export(p.run, out=p.new(".onnx"), say=quiet).suffix,
    "plan": lambda p: gantk.plan(p.folder / "many", **CPU)[:9],
    "predict": lambda p: type(gantk.predict(TINY, **CPU)).__name__,
    "resume": lambda p: gantk.resume(p.slow, say=quiet, **CPU).metrics,
    "run": lambda p: gantk.run(TINY, out=p.new(), say=quiet, **CPU).metrics,
    "sample": lambda p: [
        path.read_bytes() for path in gantk.sample(p.noise, n=2, out=p.new(), say=quiet, **CPU)
    ],
    "training": stepped,
    "write_report": lambda p: gantk.write_report(p.run, say=quiet).name,
}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    return Prepared(tmp_path_factory.mktemp("guest"))


@pytest.fixture(scope="module")
def answers():
    return {}


def expect_same(name, answers, prepared, state):
    call = (CHEAP | DEAR)[name]
    if name not in answers:
        answers[name] = call(prepared)
    with state():
        before = settings()
        found = call(prepared)
        after = settings()
    assert {key for key in before if before[key] != after[key]} == set()
    np.testing.assert_equal(found, answers[name])


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("name", CHEAP)
def test_a_function_works_under_any_setting_and_keeps_it(name, state, answers, prepared):
    expect_same(name, answers, prepared, STATES[state])


@pytest.mark.parametrize("name", DEAR)
def test_a_long_function_works_under_all_settings(name, answers, prepared):
    expect_same(name, answers, prepared, together)


@pytest.mark.slow
@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("name", DEAR)
def test_a_long_function_works_under_any_setting(name, state, answers, prepared):
    expect_same(name, answers, prepared, STATES[state])


def test_the_table_has_every_public_function():
    functions = [
        name for name in gantk.__all__ if isinstance(getattr(gantk, name), types.FunctionType)
    ]
    assert {*functions, "training"} - {"timm_model"} == CHEAP.keys() | DEAR.keys()


def test_public_functions_can_be_sent_to_other_processes():
    assert pickle.loads(pickle.dumps(gantk.translate)) is gantk.translate


def test_random_numbers_go_on_between_steps(prepared):
    torch.manual_seed(5)
    expected = torch.rand(4)
    torch.manual_seed(5)
    drawn = []
    with gantk.training(TINY, out=prepared.new(), **CPU) as training:
        for _ in training:
            drawn.append(torch.rand(1))
            assert torch.get_default_dtype() == torch.float32
    assert torch.equal(torch.cat(drawn), expected)


def test_gradients_are_recorded_where_the_host_does(prepared):
    model = gantk.load(prepared.run, **CPU)
    scan = torch.from_numpy(SCAN).requires_grad_()
    assert model.translate(scan).requires_grad
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            assert not model.translate(scan).requires_grad


def test_say_hears_all_lines(prepared, capsys):
    heard = []
    small = {"train.steps": 12, "method.cycle": 0.0, "method.local_ncc": 0.0}
    gantk.run(TINY, set=small, out=prepared.new(), say=heard.append, **CPU)
    assert capsys.readouterr() == ("", "")
    assert any(line.startswith("step 12/12  100%") for line in heard)


# ---- what is given

WRONG = {
    "to": (lambda p: gantk.translate(p.run, "a.png", "b.png", to=3), "'to' of gantk.translate"),
    "to of a model": (lambda p: gantk.load(p.run, **CPU).translate(SCAN, to=3), "has the type int"),
    "seed": (lambda p: gantk.run(TINY, seed="one"), "Allowed: a whole number, None"),
    "seed of samples": (lambda p: gantk.sample(p.noise, out="o", seed=None), "a whole number"),
    "hours": (lambda p: gantk.plan("one", hours="two"), "Allowed: a number."),
    "a model": (lambda p: gantk.load(3), "a model of the type int"),
    "a model in a list": (lambda p: gantk.load([p.run, 3]), "a model of the type int"),
    "a name of bytes": (lambda p: gantk.load(b"t1t2"), "a model of the type int"),
    "nested": (
        lambda p: gantk.load(p.run, **CPU).translate(
            torch.nested.nested_tensor([torch.ones(4), torch.ones(5)])
        ),
        "has no values that can be read",
    ),
    "vmap": (
        lambda p: torch.func.vmap(gantk.load(p.run, **CPU).translate)(torch.ones(2, 32, 32)),
        "has no values that can be read",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_value_of_another_type_is_one_error(case, prepared):
    call, said = WRONG[case]
    with pytest.raises(gantk.UserError) as error:
        call(prepared)
    assert said in str(error.value)


def test_numbers_of_numpy_are_numbers(prepared):
    model = gantk.load(prepared.noise, **CPU)
    drawn = [model.sample(one(2), seed=one(3)) for one in (int, np.int64)]
    np.testing.assert_array_equal(*drawn)
