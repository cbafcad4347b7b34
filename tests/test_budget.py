"""What a training will take, before it begins: counted memory, measured time, and what would make it fit."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
import torch

from gantk.cli import cli
from gantk.costs import forecast as forecasting
from gantk.costs import step_time
from gantk.costs.budget import AsksForValues, Need, Watch, batch_of, largest, need_of, shape_of
from gantk.costs.forecast import Forecast, Way, forecast, look_back, memory_of
from gantk.costs.remedies import remedies
from gantk.costs.step_time import smaller, step_seconds
from gantk.errors import UserError
from gantk.machine.doctor import prospects
from gantk.machine.runtime import Runtime
from gantk.machine.usage import Used, resident
from gantk.method import Stage
from gantk.metrics.summary import speed_of
from gantk.recipe.load import load_recipe
from gantk.recipe.tables import Model
from gantk.report.facts import usage as told
from gantk.training.engine import Engine
from gantk.training.loop import build_method, plan_of

CPU = Runtime(torch.device("cpu"), "fp32", True)
MIB = 2**20


def model_of(tables: dict, *settings: str) -> Model:
    return load_recipe(tables).override(settings).check()


def taken(model: Model, runtime: Runtime = CPU) -> tuple[Need, int]:
    """Bytes that live at the peak of a real step beside what was there, and the engine's state."""
    shape = shape_of(model)
    method = build_method(model, shape.channels, shape.classes, shape.range, runtime)
    engine, stage = Engine(method, plan_of(model.train, 10), runtime), largest(method.stages(10))
    engine.train_step(batch_of(model, shape, stage, runtime))
    for parameter in method.parameters():
        parameter.grad = None
    states = [value for o in engine.optimizers.values() for state in o.state.values() for value in state.values()]
    average = engine.ema.average.values() if engine.ema else ()
    with Watch([*method.parameters(), *method.buffers(), *average, *states]) as watch:
        engine.train_step(batch_of(model, shape, stage, runtime))
    return watch


SETTINGS = [
    (),
    ("train.microbatch=1",),
    ("train.recompute=true",),
    ("train.recompute=true", "train.microbatch=1", "train.batch=3"),
    ("method.generator.norm=batch", "method.generator.dropout=0.5"),
    ("data.dims=3", "data.size=[16,16,16]"),
    ("method.critic=2", 'method.adversarial="wgan_gp"'),
    ("data.patch=[16,16]",),
]


@pytest.mark.parametrize(
    ("settings", "precision"),
    [*((settings, "fp32") for settings in SETTINGS), *((settings, "bf16") for settings in SETTINGS[:3])],
    ids=lambda value: value if isinstance(value, str) else " ".join(value) or "plain",
)
def test_a_step_without_memory_needs_what_a_real_one_takes(tiny_recipe, settings, precision):
    model = model_of(tiny_recipe, *settings)
    runtime = Runtime(torch.device("cpu"), precision, True)
    need, real = need_of(model, runtime), taken(model, runtime)
    assert need.activations + need.gradients == pytest.approx(real.peak, rel=0.02)
    assert need.flops == pytest.approx(real.flops, rel=1e-6)


def test_parts_are_counted_one_by_one(tiny_recipe):
    need = need_of(model_of(tiny_recipe), CPU)
    method = build_method(model_of(tiny_recipe), {"a": 1, "b": 1}, (), (-1.0, 1.0), CPU)
    numbers = {phase.name: sum(p.numel() for m in phase.updates for p in m.parameters()) for phase in method.phases()}
    assert need.weights == 4 * sum(numbers.values())
    assert need.average == 4 * numbers["generators"]
    assert 8 * sum(numbers.values()) <= need.optimizer <= 8.1 * sum(numbers.values()), "two moments a weight"
    assert need.gradients == 4 * max(numbers.values())
    assert need.buffers >= 2 * 4 * 32 * 32 * 4, "two pools of four images"
    assert need.total == need.state + need.gradients + need.activations
    without = need_of(model_of(tiny_recipe, "train.ema=0.0", 'train.optimizer="sgd"'), CPU)
    assert without.average == 0 and without.optimizer < need.optimizer


def test_memory_grows_with_the_images_and_falls_with_what_saves_it(tiny_recipe):
    size = 'data.size=[64,64]'
    plain = need_of(model_of(tiny_recipe, size), CPU).activations
    assert need_of(model_of(tiny_recipe, "data.size=[128,128]"), CPU).activations > 3 * plain
    assert need_of(model_of(tiny_recipe, size, "train.microbatch=1"), CPU).activations < 0.7 * plain
    assert need_of(model_of(tiny_recipe, size, "train.recompute=true"), CPU).activations < 0.95 * plain


def test_the_largest_stage_counts():
    tables = {"method": {"name": "progan", "latent": 8, "base": 64, "width": 8}, "train": {"steps": 100, "batch": 2},
              "data": {"domains": ["T1"], "size": [8, 8]}}  # fmt: skip
    model = model_of(tables)
    whole = need_of(model, CPU)
    method = build_method(model, {"image": 1}, (), (-1.0, 1.0), CPU)
    for stage in method.stages(100):
        assert need_of(model, CPU, stage).flops <= whole.flops * 1.001, stage.name
    assert largest(method.stages(100)).name == "8 fade"


def test_nothing_of_a_prediction_is_left_behind(tiny_recipe):
    torch.manual_seed(3)
    before = torch.get_rng_state()
    need_of(model_of(tiny_recipe), CPU)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_method_that_decides_by_numbers_is_tried_for_real():
    tables = {"method": {"name": "style", "weights": "random", "content_layers": ["conv1_2"],
                         "style_layers": ["conv1_1"], "init": "noise"},
              "train": {"steps": 2, "batch": 1}, "data": {"size": [32, 32]}}  # fmt: skip
    need = need_of(model_of(tables), CPU)
    assert need.activations > 0 and need.flops > 0
    assert issubclass(AsksForValues, Exception)


def test_what_a_recipe_tells_of_its_data(tiny_recipe):
    tables = tiny_recipe | {"data": tiny_recipe["data"] | {"domains": ["T1+FLAIR", "T2"], "neighbours": 1}}
    shape = shape_of(model_of(tables, "data.mask=true", "data.labels=true"))
    assert shape.channels == {"a": 6, "b": 3} and len(shape.classes) == 2 and shape.range == (-1.0, 1.0)
    batch = batch_of(model_of(tables, "data.mask=true", "data.labels=true"), shape, Stage("main", 1, (32, 32)), CPU)
    assert batch["a"].shape == (2, 6, 32, 32) and batch["mask_a"].shape == (2, 1, 32, 32) and len(batch["label"]) == 2


def test_a_recipe_without_its_second_domain_is_refused(tiny_recipe):
    with pytest.raises(UserError, match="this method needs 2 domains, and data.domains names 1"):
        need_of(model_of(tiny_recipe, 'data.domains=["T1"]'), CPU)


def test_smaller_recipes_see_ever_less(tiny_recipe):
    seen = [(m.train.batch, m.data.size) for m in smaller(model_of(tiny_recipe, "train.batch=4"))]
    assert seen == [(2, (32, 32)), (1, (32, 32)), (1, (16, 16)), (1, (8, 8)), (1, (4, 4))]


@pytest.fixture
def clock(monkeypatch):
    """Steps that take a second for every million pixels and half a second besides; `clock.timed` are their sizes."""
    timed = []

    def seconds(model, runtime, shape):
        timed.append((model.train.batch, model.data.size))
        return 0.5 + model.train.batch * model.data.size[0] * model.data.size[1] / 1e6

    monkeypatch.setattr(step_time, "_timed", seconds)
    return SimpleNamespace(timed=timed)


def test_time_is_measured_at_the_recipes_own_size_where_that_is_short(tiny_recipe, clock):
    model = model_of(tiny_recipe)
    seconds, how = step_seconds(model, CPU, need_of(model, CPU), shape_of(model), None)
    assert how == "timed at its own size" and clock.timed[-1] == (2, (32, 32))
    assert seconds == pytest.approx(0.502, rel=0.01)


def test_time_follows_from_smaller_steps_where_they_are_long(tiny_recipe, clock):
    model = model_of(tiny_recipe, "data.size=[2048,2048]", "train.batch=4")
    seconds, how = step_seconds(model, CPU, need_of(model, CPU), shape_of(model), None)
    assert how.startswith("reckoned from steps of 1 at ")
    assert seconds == pytest.approx(0.5 + 4 * 2048**2 / 1e6, rel=0.1)


def test_what_does_not_fit_is_not_timed(tiny_recipe, clock):
    model = model_of(tiny_recipe, "data.size=[64,64]")
    need = need_of(model, CPU)
    _, how = step_seconds(model, CPU, need, shape_of(model), need.total // 2)
    assert how.startswith("reckoned") and (2, (64, 64)) not in clock.timed


@pytest.fixture
def found() -> Forecast:
    need = Need(10 * MIB, 2 * MIB, 5 * MIB, 20 * MIB, 8 * MIB, 4000 * MIB, 3e12)
    return Forecast(need, 700 * MIB, 0, "cpu", 23 << 30, 0.46, 0.5, "timed at its own size", 1.1)


def test_doctor_says_it_in_words(found):
    rows = {name: (value, problem) for name, value, problem in prospects(found)}
    assert rows["weights"] == ("10 MiB, and their average 5 MiB", None)
    assert rows["peak"] == ("5.0 GiB of the 23.0 GiB that cpu has, decoded images apart", None)
    assert rows["step"] == ("0.46 s, timed at its own size", None)
    assert rows["training"][0].startswith("30 min 00 s")
    assert "with" not in rows and "capture" not in rows


def test_doctor_says_what_would_fit(found):
    from dataclasses import replace

    ways = (Way(("train.microbatch=1",), 3 << 30, False), Way(("train.recompute=true",), 1 << 30, True))
    rows = list(prospects(replace(found, available=2 << 30, ways=ways)))
    assert ("peak", "5.0 GiB of the 2.0 GiB that cpu has, decoded images apart", "it will not fit") in rows
    assert ("with", "--set train.microbatch=1: 3.0 GiB, still too much", None) in rows
    assert ("with", "--set train.recompute=true: 1.0 GiB, fits", None) in rows


def test_remedies_are_the_mildest_first_and_end_with_one_that_fits(tiny_recipe, monkeypatch):
    from dataclasses import replace

    def bytes_of(model, runtime, shape):  # counted in the tests above
        pixels = model.data.size[0] * model.data.size[1] * (model.train.microbatch or model.train.batch)
        return replace(need, activations=pixels * (500 if model.train.recompute else 1000))

    monkeypatch.setattr("gantk.costs.remedies.need_of", bytes_of)
    recipe = load_recipe(tiny_recipe).override(["data.size=[64,64]", "train.batch=4"])
    need = Need(MIB, MIB, MIB, MIB, MIB, 100 * MIB, 1e9)
    low = Forecast(need, 0, 0, "cpu", 1, 1.0, 1.0, "", 1.55)
    every = list(remedies(recipe, CPU, low))
    system, micro, again = 'train.allocator="system"', "train.microbatch=1", "train.recompute=true"
    assert [way.settings for way in every[:4]] == [
        (system,), (system, micro), (system, again), (system, micro, again)]  # fmt: skip
    assert every[4].settings[-1] == "data.size=[32, 32]" and not any(way.fits for way in every)
    assert all(a.peak > b.peak for a, b in zip(every[3:], every[4:], strict=False))
    enough = replace(low, available=every[3].peak)
    assert list(remedies(recipe, CPU, enough))[-1].fits


def test_a_card_holds_no_python_and_two_copies_of_what_is_recorded(tiny_recipe, monkeypatch):
    card = SimpleNamespace(total_memory=80 << 30)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: card)
    assert memory_of(torch.device("cuda", 0)) == 80 << 30
    need = need_of(model_of(tiny_recipe), CPU)
    monkeypatch.setattr(forecasting, "need_of", lambda *args, **options: need)
    monkeypatch.setattr(forecasting, "step_seconds", lambda *args: (0.01, "timed at its own size"))
    runtime = Runtime(torch.device("cuda", 0), "bf16", True)
    monkeypatch.setattr(forecasting, "hours_of", lambda *args: 0.5)
    recorded = forecast(model_of(tiny_recipe), runtime)
    assert recorded.process == 0 and recorded.capture == 2 * need.state and recorded.available == 80 << 30
    assert forecast(model_of(tiny_recipe, 'train.capture="off"'), runtime).capture == 0


def test_memory_at_hand_is_what_is_free_and_what_the_process_has_already():
    assert memory_of(torch.device("cpu")) > resident() > 10 * MIB
    assert memory_of(torch.device("cpu"), shared=True) < memory_of(torch.device("cpu"))


def test_the_command_predicts_without_data(tiny_file, tmp_path, invoke_doctor):
    result = invoke_doctor("--recipe", tiny_file, "--set", 'data.source={name="nifti", path="nowhere"}',
                           "--json", tmp_path / "said.json")  # fmt: skip
    assert result.exit_code == 0, result.output
    for word in ("weights", "optimizer", "activations", "peak", "step", "training"):
        assert word in result.output
    said = json.loads((tmp_path / "said.json").read_text())
    assert said["fits"] and 0 < said["weights_gib"] < said["peak_memory_gib"] and said["step_s"] > 0


@pytest.fixture
def invoke_doctor(monkeypatch):
    from click.testing import CliRunner

    monkeypatch.setattr(step_time, "SECONDS", 0.2)
    return lambda *args: CliRunner().invoke(cli, ["doctor", *map(str, args), "--device", "cpu"])


def test_a_bad_recipe_is_one_line(tiny_file, invoke_doctor, capsys):
    result = invoke_doctor("--recipe", tiny_file, "--set", "train.bath=2")
    assert result.exit_code == 2 and "Did you mean 'batch'?" in capsys.readouterr().err + result.output
    result = invoke_doctor("--recipe", tiny_file, "--set", "data.size=[30,30]")
    assert result.exit_code == 2 and "cannot take images of 30 x 30" in capsys.readouterr().err + result.output


def test_options_of_a_recipe_need_one(invoke_doctor):
    result = invoke_doctor("--set", "train.batch=2")
    assert result.exit_code == 2 and "--recipe" in result.output


class Training:
    """What `look_back` sees of a finished training."""

    def __init__(self, model: Model, seconds: float):
        self.seconds, self.engine, self.used = seconds, SimpleNamespace(step=4), SimpleNamespace(process=700 * MIB)
        data = SimpleNamespace(channels={"a": 1, "b": 1}, classes=(), range=(-1.0, 1.0))
        self.parts = SimpleNamespace(model=model, data=data, runtime=CPU)
        self.written, self.logged = {}, []
        writes = {"write_json": self.written.__setitem__, "log": self.logged.append}
        self.run = SimpleNamespace(usage=lambda: {"step": 4}, **writes)


def test_a_long_training_is_held_against_what_was_predicted(tiny_recipe, monkeypatch):
    short, long = (Training(model_of(tiny_recipe), forecasting.WORTH + extra) for extra in (-1, 1))
    monkeypatch.setattr(step_time, "SECONDS", 0.1)
    look_back(short)
    assert not short.written, "a prediction would cost more than it is worth"
    look_back(long)
    said = long.written["usage.json"]
    assert said["step"] == 4 and said["predicted"]["peak_memory_gib"] > 700 / 1024 and said["predicted"]["step_s"] > 0


def test_a_prediction_that_fails_loses_no_training(tiny_recipe, monkeypatch):
    def failing(*args, **options):
        raise RuntimeError("no such operator")

    monkeypatch.setattr(forecasting, "need_of", failing)
    training = Training(model_of(tiny_recipe), forecasting.WORTH)
    look_back(training)
    assert not training.written and "no such operator" in training.logged[0]["note"]


def test_the_report_says_how_near_it_was():
    log = [{"step": 10, "seconds": 4.0, "images_per_s": 10.0}]
    predicted = {"peak_memory_gib": 1.25, "step_s": 0.5}
    used = {"peak_memory_gib": 1.0, "predicted": predicted}
    speed = speed_of(log, used)
    assert speed["predicted"] == predicted and "predicted" not in speed_of(log, {"peak_memory_gib": 1.0})
    lines = dict(told(speed))
    assert lines["Step time"] == "0.4 s, 0.5 s predicted" and lines["Peak memory"] == "1 GiB, 1.25 GiB predicted"
    assert dict(told(speed | {"predicted": None}))["Peak memory"] == "1 GiB"


def test_a_prediction_stays_with_the_run_when_it_is_resumed():
    assert Used({"predicted": {"step_s": 1.0}}, "cpu").state(5, 1.0)["predicted"] == {"step_s": 1.0}
    assert "predicted" not in Used({}, "cpu").state(5, 1.0)
