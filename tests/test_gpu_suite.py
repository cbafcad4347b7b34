"""The GPU benchmark, tried out on the CPU: every part measures, everything that goes wrong is a row."""

from __future__ import annotations

import json
import multiprocessing
import subprocess
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from gpu import bars, cases, catalogue, ceilings, machine, peers, rows, steps, suite, table, timing, waits
from gpu.clock import Clock
from gpu.flops import counted
from gpu.training import step_seconds
from gpu.worker import serve

from gantk.errors import UserError
from gantk.machine.runtime import start
from gantk.recipe.load import all_recipes, load_recipe
from gantk.testing.recorded import Recording
from gantk.training.accelerate import compile as compiled
from gantk.training.accelerate.compile import CompiledLoss
from gantk_cyclegan.model import CycleGAN

SUITE = Path(__file__).parent.parent / "benchmarks" / "gpu_suite.py"
CPU = torch.device("cpu")


def tiny_task(case: str, **changes) -> dict:
    task = next(each for each in cases.tasks(True, [case]) if each["part"] == "step")
    return task | {"tiny": True} | changes


def subject(case: str = "cyclegan", graph=None, **changes) -> steps.Subject:
    task = tiny_task(case, **changes)
    return steps.Subject.build(task["recipe"], task["settings"], task["batch"], task["precision"], "cpu", graph)


# ---- the whole run


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> tuple[list[dict], str]:
    """The rows of a whole small run in a process of its own, and what it printed."""
    file = tmp_path_factory.mktemp("gpu") / "rows.jsonl"
    what = ["--cases", "dcgan", "dcgan, 3-D", "--parts", "environment", "ceiling", "step", "training"]
    command = [sys.executable, str(SUITE), "--device", "cpu", "--tiny", "--json", str(file), *what]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900, cwd=file.parent, check=False)
    assert done.returncode == 0, done.stderr
    return list(rows.read_rows(file)), done.stdout


def test_every_row_of_a_run_is_measured_and_has_all_fields_of_its_part(run):
    found, _ = run
    assert {row["part"] for row in found} == {*rows.FIELDS} - {"cost", "peer", "ratio"}
    for row in found:
        assert set(row) == {"part", "status", "why", *rows.FIELDS[row["part"]]}
        assert row["part"] == "bar" or (row["status"], row["why"]) == ("ok", None), row
    measured = {(row["case"], row["mode"]) for row in found if row["part"] == "step"}
    assert measured == {(case, mode) for case in ("dcgan", "dcgan, 3-D") for mode in ("eager", "captured")}


def test_a_step_row_says_what_it_cost_and_how_that_compares_with_the_ceilings(run):
    found, _ = run
    best = suite.best(found, "conv", "fp32", 3)
    for row in (row for row in found if row["part"] == "step"):
        assert len(row["samples_s"]) >= 2 and row["median_s"] > 0 and row["parameters"] > 0
        assert row["images_per_s"] == pytest.approx(row["batch"] / row["median_s"])
        assert row["tflops_per_s"] == pytest.approx(row["flops"] / row["median_s"] / 1e12)
        assert row["operators"] > 50
        if row["dims"] == 3:
            assert row["of_conv"] == pytest.approx(row["tflops_per_s"] / best)
    assert all(row["reached"] > 0 for row in found if row["part"] == "ceiling")


def test_the_training_row_has_scores_beside_their_baselines_and_the_share_of_the_step(run):
    (row,) = (row for row in run[0] if row["part"] == "training")
    assert row["steps"] == 4 and row["seconds"] > 0 and row["compute_share"] > 0
    assert {"psnr", "ssim"} <= set(row["metrics"]["a_to_b"])
    assert {"identity", "intensity_map"} <= set(row["baselines"])


def test_the_run_prints_its_table(run):
    found, printed = run
    shown = table.markdown(found)
    assert shown in printed
    assert "| dcgan, 3-D | 16 x 16 x 16 | 1 | fp32 |" in shown
    assert "dualgan_t1t2, 32 x 32, batch 2" in shown and "of compute" not in shown
    assert "2 of these rows: not captured: graphs need a CUDA device" in shown
    assert "| cyclegan-256-unet | 1 | >= 5.00 | not measured (it is not in this run) |" in shown


def test_no_row_tells_where_files_lie_on_this_machine(run, tmp_path):
    for row in run[0]:
        assert str(Path.home()) not in json.dumps(row) and str(SUITE.parents[1]) not in json.dumps(row)
    assert "--json rows.jsonl" in next(row for row in run[0] if row["part"] == "environment")["command"]
    said = rows.first_line(FileNotFoundError(f"no such file: '{tmp_path}/models/x.py', see https://a.org/b/c or 3/4"))
    assert said == "FileNotFoundError: no such file: 'x.py', see https://a.org/b/c or 3/4"


def test_a_run_that_is_killed_keeps_what_it_measured(tmp_path):
    file = tmp_path / "rows.jsonl"
    command = [sys.executable, str(SUITE), "--device", "cpu", "--tiny", "--json", str(file), "--parts", "ceiling"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        told = [process.stdout.readline() for _ in range(5)]
        process.kill()
    found = [row for row in rows.read_rows(file) if row["part"] == "ceiling"]
    assert len(found) >= 5 and all(line.startswith("ceiling") for line in told)
    assert "not measured (it is not in this run)" in table.markdown(list(rows.read_rows(file)))


def test_a_device_that_is_not_there_is_one_message_and_no_file(tmp_path):
    if torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    command = [sys.executable, str(SUITE), "--device", "cuda", "--json", str(tmp_path / "rows.jsonl")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 2 and not list(tmp_path.iterdir())
    assert done.stderr.startswith("error: ") and "--device cpu --tiny" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_all_cells_of_the_trial_run_are_measured(tmp_path):
    file = tmp_path / "rows.jsonl"
    command = [sys.executable, str(SUITE), "--device", "cpu", "--tiny", "--json", str(file), "--minutes", "20"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1500, check=False)
    assert done.returncode == 0, done.stderr
    steps_told = [row for row in rows.read_rows(file) if row["part"] == "step"]
    assert {row["mode"] for row in steps_told} == set(cases.MODES)
    assert {(row["case"], row["status"]) for row in steps_told} == {(case.label, "ok") for case in cases.all_cases()}


# ---- budget, crashes, refusals: told by a stand-in for the process that measures


class Pretender:
    """Answers every task with what `say` gives of it, as the process that measures would."""

    def __init__(self, say):
        self.say, self.ended = say, 0

    def __call__(self, device):
        return self

    def answers(self, task, clock, limit):
        yield from self.say(task)

    def end(self):
        self.ended += 1


def told(tmp_path, say, minutes=9.0, **options) -> tuple[list[dict], Pretender]:
    pretender = Pretender(say)
    wanted = suite.Options("cpu", minutes, tmp_path / "rows.jsonl", **options)
    found = suite.Suite(wanted, Clock(minutes), start=pretender, say=lambda line: None).run()
    assert found == list(rows.read_rows(tmp_path / "rows.jsonl"))
    return found, pretender


def measured(part: str, task: dict, **values) -> dict:
    about = {key: task[key] for key in ("case", "size", "batch", "precision", "mode") if key in task}
    return rows.row(part, **about, **values)


def done(task):
    if task["part"] == "step":
        yield measured("step", task, samples_s=[1.0], median_s=1.0, spread=0.0)
    yield "done", True


def test_what_does_not_fit_into_the_minutes_is_a_row_that_says_so(tmp_path):
    found, pretender = told(tmp_path, done, minutes=0.0)
    skipped = [row for row in found if row["part"] not in ("definitions", "end", "bar")]
    assert {(row["status"], row["why"]) for row in skipped} == {("skipped", "out of time budget")}
    assert {row["part"] for row in skipped} == {*suite.PARTS, "ratio"}
    assert {row["mode"] for row in skipped if row["part"] == "step"} == set(cases.MODES)
    assert found[-1]["counts"] == {"skipped": len(skipped)}
    unmet = [row for row in found if row["part"] == "bar"]
    assert len(unmet) == 14 and {row["text"] for row in unmet} == {"not measured (out of time budget)"}
    assert "not measured (out of time budget)" in table.markdown(found)


def test_a_process_that_dies_costs_one_row_and_is_started_again(tmp_path):
    def say(task):
        if task["part"] == "step" and (task["case"], task["mode"]) == ("munit", "captured"):
            yield "killed", "the process that measured ended with code -11"
        else:
            yield from done(task)

    found, pretender = told(tmp_path, say, parts=("step",), cases=["munit", "munit, 3-D"])
    ended = [(row["case"], row["mode"], row["status"]) for row in found if row["part"] == "step"]
    assert ended == [("munit", "captured", "killed"), ("munit, 3-D", "captured", "ok")]
    assert pretender.ended == 2  # after the crash, and at the end


def test_what_ended_the_process_once_is_not_tried_again(tmp_path):
    def say(task):
        if task["part"] == "step" and task["case"] == "pix2pix":
            yield "killed", "took longer than 60 s"
        else:
            yield from done(task)

    found, pretender = told(tmp_path, say, parts=("step",), cases=["pix2pix", "dualgan"])
    whys = [row["why"] for row in found if row.get("case") == "pix2pix" and row["mode"] == "captured"]
    assert whys == ["took longer than 60 s", "not tried again; at 256 x 256, batch 1, bf16: took longer than 60 s"]
    assert all(row["status"] == "ok" for row in found if row.get("case") == "dualgan")
    assert pretender.ended == 3  # after each of its modes, the last of which was the last of all


def test_a_device_that_no_longer_answers_gets_a_new_process(tmp_path):
    def say(task):
        yield from done(task) if task["case"] != "cut" else [measured("step", task), ("done", False)]

    _, pretender = told(tmp_path, say, tiny=True, parts=("step",), cases=["cut", "style"])
    assert pretender.ended == 3  # after both modes of the first, and at the end


def test_a_comparison_that_breaks_off_keeps_the_sides_that_were_measured(tmp_path):
    def say(task):
        about = {"case": task["case"], "batch": task["batch"], "size": [task["size"]] * 2}
        yield rows.row("peer", **about, peer="gantk", samples_s=[1.0], median_s=1.0)
        yield "killed", "took longer than 150 s"

    found, _ = told(tmp_path, say, tiny=True, parts=("peer",))
    ended = [(row["part"], row.get("peer"), row["status"]) for row in found if row["part"] in ("peer", "ratio")][:4]
    assert ended == [
        ("peer", "gantk", "ok"), ("peer", "reference", "killed"), ("peer", "gantk plain", "killed"),
        ("ratio", None, "killed"),
    ]  # fmt: skip


def test_what_a_compiled_step_computes_is_told_by_another_mode(tmp_path):
    def say(task):
        flops = {} if task["mode"] == "compiled" else {"flops": 8e12, "operators": 9}
        yield measured("step", task, median_s=2.0, **flops)
        yield "done", True

    found, _ = told(tmp_path, say, tiny=True, parts=("step",), cases=["pix2pix"])
    (row,) = (row for row in found if row["part"] == "step" and row["mode"] == "compiled")
    assert (row["flops"], row["tflops_per_s"], row["operators"]) == (8e12, 4.0, None)


def test_a_run_that_was_cut_off_keeps_its_rows(tmp_path):
    file = tmp_path / "rows.jsonl"
    write = rows.Writer(file)
    write(rows.row("cost", what="first"))
    write(rows.row("cost", what="second", ratio=float("nan")))
    with file.open("a") as half:
        half.write('{"part": "cost", "wha')
    found = list(rows.read_rows(file))
    assert [row["what"] for row in found] == ["first", "second"] and found[1]["ratio"] is None


def test_what_a_part_did_not_catch_is_told_and_the_next_task_is_taken():
    here, there = multiprocessing.Pipe()
    for task in ({"part": "step", "case": "lacks all else"}, {"part": "ceiling", "tiny": True, "kind": "copy"}, None):
        here.send(task)
    serve(there, "cpu")
    ready, (what, why), first, row, last = (here.recv() for _ in range(5))
    assert ready == ("ready", "cpu") and first == last == ("done", True)
    assert what == "failed" and why.startswith("KeyError")
    assert row["kind"] == "copy" and row["status"] == "ok"


def test_a_device_that_cannot_be_used_is_told_in_the_place_of_ready(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    here, there = multiprocessing.Pipe()
    serve(there, "cuda:0")
    error = here.recv()
    assert isinstance(error, UserError) and error.where == "--device" and error.remedy


def test_a_process_that_is_gone_is_an_answer_too():
    worker = suite.Worker("cpu")
    worker.process.kill()
    worker.process.join(60)
    (answer,) = worker.answers({"part": "environment"}, Clock(9), 60)
    assert answer == ("killed", "the process that measures ended with code -9")
    worker.end()


def test_a_task_that_takes_too_long_is_given_up():
    worker = suite.Worker("cpu")
    assert worker.meet() == "cpu"
    (answer,) = worker.answers({"part": "environment", "when": "at rest", "command": ""}, Clock(9), 0.0)
    assert answer == ("killed", "took longer than 0 s")
    worker.end()


# ---- steps


def test_a_method_that_raises_is_a_row(monkeypatch):
    def broken(self, batch):
        raise ValueError("no such thing\nas a second line")

    monkeypatch.setattr("gantk_cyclegan.model.CycleGAN.generator_losses", broken)
    (row,) = steps.measure(tiny_task("cyclegan"), "cpu")
    assert (row["mode"], row["status"], row["why"]) == ("captured", "failed", "ValueError: no such thing")
    assert row["method"] == "cyclegan" and row["median_s"] is None


def test_a_recipe_that_cannot_be_built_is_a_row():
    (row,) = steps.measure(tiny_task("cyclegan", settings=["data.size=[33, 33]"]), "cpu")
    assert row["status"] == "failed" and "33 x 33" in row["why"]


def test_out_of_memory_is_a_row(monkeypatch):
    def full(self, batch):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9.00 GiB")

    monkeypatch.setattr("gantk_cyclegan.model.CycleGAN.generator_losses", full)
    (row,) = steps.measure(tiny_task("cyclegan"), "cpu")
    assert row["status"] == "out of memory" and "out of memory" in row["why"]


def test_modes_are_settings_of_a_recipe():
    def engine(mode):
        return subject(settings=[*tiny_task("cyclegan")["settings"], *cases.MODES[mode]]).engine

    found = {mode: engine(mode) for mode in cases.MODES}
    assert [found[mode].plan.capture for mode in ("captured", "eager", "compiled")] == [True, False, False]
    compiled = {mode for mode, each in found.items() if isinstance(each.phases[0].loss, CompiledLoss)}
    assert compiled == {"compiled"}


def test_a_compiled_step_that_falls_back_says_so_and_is_timed(monkeypatch):
    def broken(graph, inputs):
        raise RuntimeError("no compiler here")

    compile_phases = compiled.compile_phases
    monkeypatch.setattr(compiled, "compile_phases", lambda *them: compile_phases(*them, backend=broken))
    (row,) = steps.measure(tiny_task("regression", mode="compiled"), "cpu")
    assert row["status"] == "ok" and row["flops"] is None
    assert any("train.compile" in note and "no compiler here" in note for note in row["notes"])


def test_a_step_is_recorded_before_it_is_timed_and_computes_what_the_eager_one_does():
    recorded, plain = subject(graph=Recording), subject()
    found = steps.own_values(recorded, steps.TINY)
    assert recorded.engine.capture.graphs == 1 and found["notes"] == []
    assert found["flops"] == steps.own_values(plain, steps.TINY)["flops"] > 0
    assert recorded.engine.step == plain.engine.step == steps.WARM_UP + 1 + steps.TINY["least"]
    state = recorded.engine.method.state_dict()
    for name, tensor in plain.engine.method.state_dict().items():
        assert torch.equal(tensor, state[name]), name


def test_a_step_that_could_not_be_recorded_is_timed_and_says_why(monkeypatch):
    losses = CycleGAN.generator_losses

    def asking(self, batch):
        return {name: loss * (1.0 + 0.0 * float(loss.detach())) for name, loss in losses(self, batch).items()}

    monkeypatch.setattr(CycleGAN, "generator_losses", asking)
    found = steps.own_values(subject(graph=Recording), steps.TINY)
    assert found["median_s"] > 0 and found["notes"][0].startswith("the step could not be recorded: ")


def test_phases_that_seldom_run_are_recorded_too():
    found = subject("dualgan", graph=Recording, settings=[*tiny_task("dualgan")["settings"], "method.critic=3"])
    for _ in range(found.settling):
        found.step()
    assert found.engine.capture.graphs == 2 and found.notes == []


def test_every_method_of_the_bundled_recipes_is_timed_as_a_user_gets_it():
    own = {name for name, (_, owner) in all_recipes().items() if owner == "gantk"}
    used = {load_recipe(name).tables["method"]["name"] for name in own}
    found = [task for task in cases.tasks(False) if task["part"] == "step"]
    timed = {}
    for task in found:
        method = load_recipe(task["recipe"]).tables["method"]["name"]
        cell = (task["size"][0], task["batch"], task["precision"], task["mode"])
        timed.setdefault((method, task["dims"]), set()).add(cell)
    assert {method for method, _ in timed} == used
    for method in used:
        assert (256, 1, "bf16", "captured") in timed[method, 2], method
    keys = [(task["case"], *task["size"], task["batch"], task["precision"], task["mode"]) for task in found]
    assert len(keys) == len(set(keys))


def test_what_matters_most_comes_first():
    found = [task for task in catalogue.tasks(False, None, {}, "") if task["part"] in ("peer", "step")]
    aimed = cases.tables()["peers"]["target"]
    assert [(task["case"], task["batch"]) for task in found[:4]] == [(cell["case"], cell["batch"]) for cell in aimed]
    assert all(task["sides"] == ["gantk", "reference", "gantk plain"] for task in found[:4])
    modes = [task["mode"] for task in found if task["part"] == "step"]
    assert set(modes[modes.index("compiled") :]) == {"compiled"}
    assert modes.index("eager") == len(cases.all_cases())


def test_every_case_is_a_recipe_that_checks():
    for task in cases.tasks(False):
        if task["part"] == "step" and task["mode"] == "captured":
            model = load_recipe(task["recipe"]).override(task["settings"]).check()
            assert (model.data.dims, list(model.data.size)) == (task["dims"], task["size"])
    plan = cases.training(False)
    load_recipe(plan["recipe"]).override([*plan["settings"], f"train.steps={plan['steps']}"]).check()


# ---- measuring


@pytest.mark.parametrize(("dims", "stride"), [(2, 1), (3, 2)])
def test_the_operations_of_a_convolution_are_counted_exactly(dims, stride):
    convolve = F.conv2d if dims == 2 else F.conv3d
    x, w = torch.randn(2, 3, *[8] * dims), torch.randn(5, 3, *[3] * dims, requires_grad=True)
    flops, operators = counted(lambda: convolve(x, w, stride=stride, padding=1))
    forward = 2 * 2 * (8 // stride) ** dims * 5 * 3 * 3**dims
    assert (flops, operators) == (forward, 1)
    # the gradient of the weight costs what the convolution does; the input asks for none
    assert counted(lambda: convolve(x, w, stride=stride, padding=1).sum().backward())[0] == 2 * forward


def test_views_are_no_operators():
    x = torch.randn(4, 4)
    assert counted(lambda: x.t().reshape(2, 8)[0].add_(1.0))[1] == 2  # the copy that reshape makes, and the sum


CEILINGS = [*catalogue.ceilings(2), *catalogue.ceilings(3)]


@pytest.mark.parametrize("task", CEILINGS, ids=lambda task: "-".join(map(str, task.values())))
def test_ceilings_are_positive_and_their_work_is_known(task):
    found = list(ceilings.measure({"part": "ceiling", "tiny": True} | task, CPU))
    assert found and all(row["reached"] > 0 and row["work"] > 0 and row["samples_s"] for row in found)
    if task["kind"] == "conv":
        channels, count, *size = found[0]["shape"]
        assert found[0]["work"] == 2 * channels**2 * 3 ** task["dims"] * count * torch.Size(size).numel()
        assert found[1]["work"] == 3 * found[0]["work"]


def test_samples_are_as_many_as_there_is_time_for():
    calls = []
    assert len(timing.samples(lambda: calls.append(1), CPU, seconds=10.0, least=2, most=7)) == 7
    assert len(timing.samples(lambda: calls.append(1), CPU, seconds=0.0, least=2, most=7)) == 2
    found = timing.summary([1.0, 2.0, 3.0])
    assert found["median_s"] == 2.0 and found["spread"] == 1.0
    assert timing.summary([4.0]) == {"samples_s": [4.0], "median_s": 4.0, "spread": 0.0, "spread_90": 0.0}


def test_one_slow_step_in_twenty_is_within_the_spread_and_two_are_not():
    assert timing.summary([1.0] * 39 + [2.0])["spread_90"] == 0.0
    assert timing.summary([1.0] * 36 + [2.0] * 4)["spread_90"] == 1.0


def test_on_a_gpu_samples_lie_between_events_in_seconds(monkeypatch):
    now = [0.0]

    class Event:
        def __init__(self, enable_timing):
            assert enable_timing

        def record(self):
            self.at = now[0]

        def elapsed_time(self, other):
            return other.at - self.at  # milliseconds

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device=None: None)

    def work():
        now[0] += 250.0

    assert timing.samples(work, torch.device("cuda", 0), seconds=1.0, least=2, most=9) == [0.25] * 4


def test_waits_of_the_host_are_counted_where_they_happen_and_the_debug_mode_is_put_back(monkeypatch):
    assert [waits.how_many(seconds) for seconds in (0.001, 0.2, 9.0)] == [20, 10, 2]
    modes = ["before"]
    monkeypatch.setattr(torch.cuda, "get_sync_debug_mode", lambda: modes[-1])
    monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", modes.append)

    def step():
        warnings.warn("called a synchronizing CUDA operation (Triggered internally)", stacklevel=1)
        warnings.warn("another thing", stacklevel=1)

    found = waits.host_waits(step, torch.device("cuda", 0), 3)
    assert len(found) == 3 and all(place.startswith("test_gpu_suite.py:") for place in found)
    assert modes == ["before", "warn", "before"]
    with pytest.raises(ZeroDivisionError):
        waits.host_waits(lambda: 1 / 0, torch.device("cuda", 0), 3)
    assert modes[-1] == "before" and waits.host_waits(step, CPU, 3) is None


def test_waits_of_gantk_s_step_are_told_by_step_and_by_place(monkeypatch):
    monkeypatch.setattr(steps, "host_waits", lambda step, device, count: ["pool.py:7"] * count)
    (row,) = steps.measure(tiny_task("regression"), "cpu")
    assert row["host_waits"] == 1.0 and row["notes"] == [steps.NO_GRAPHS, "the host waits at pool.py:7"]


def test_peak_memory_is_that_of_the_part_itself(monkeypatch):
    held = {"now": 1 << 30, "most": 9 << 30}
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda: held.update(most=held["now"]))
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda: held["now"])
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda: held["most"])
    with steps.memory_watched("cuda:0") as peak:
        held["most"] = 4 << 30
        assert peak() == 3.0
    with steps.memory_watched("cpu") as peak:
        assert peak() is None


def test_the_card_is_named_by_what_torch_and_the_driver_say(monkeypatch):
    asked = []
    card = {"major": 9, "minor": 0, "total_memory": 140 << 30, "multi_processor_count": 132, "uuid": "1f-2e"}
    runtime = start("cpu")
    monkeypatch.setattr(machine, "start", lambda device: runtime)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(**card))
    monkeypatch.setattr(machine, "_said", lambda command: asked.append(command) or "580.65.06, 700, 9, 1980, 1, 40")
    (row,) = machine.measure({"when": "at rest", "command": "python x.py"}, torch.device("cuda", 0))
    assert "--id=GPU-1f-2e" in asked[0]
    assert (row["capability"], row["memory_gib"], row["driver"], row["clock_sm_mhz"]) == ("9.0", 140, "580.65.06", 1980)
    monkeypatch.setattr(machine, "_said", lambda command: None)  # no nvidia-smi
    (row,) = machine.measure({"when": "at rest", "command": "python x.py"}, torch.device("cuda", 0))
    assert row["status"] == "ok" and row["clock_sm_mhz"] is None and row["multiprocessors"] == 132


def test_the_training_step_is_taken_from_the_last_stage_of_the_log():
    lines = [("coarse", 10, 1.0), ("coarse", 20, 2.0), ("main", 30, 5.0), ("main", 40, 9.0), ("main", 50, 15.0)]
    log = [{"stage": stage, "step": step, "seconds": s, "losses": {}} for stage, step, s in lines]
    assert step_seconds([*log, {"step": 50, "validation": {}}]) == pytest.approx(0.5)
    assert step_seconds(log[:1]) is None


def test_the_driver_s_answer_is_read_and_what_it_does_not_know_is_none():
    found = machine.answers("580.159, 700.00, 112.5, 1980, [N/A], 41")
    assert found == {
        "driver": "580.159", "power_limit_w": 700.0, "power_w": 112.5, "clock_sm_mhz": 1980.0,
        "clock_memory_mhz": None, "temperature_c": 41.0,
    }  # fmt: skip
    assert set(machine.answers(None).values()) == {None}


# ---- targets


def cell(part: str, batch: int, case: str = "cyclegan-256-unet", status: str = "ok", why=None, **values) -> dict:
    return rows.row(part, status, why, case=case, batch=batch, size=[256, 256], **values)


def verdicts(*found: dict) -> dict[tuple[str, int], tuple[bool | None, str]]:
    told = [row for row in bars.bars(list(found)) if row["case"] == "cyclegan-256-unet"]
    return {(row["what"], row["batch"]): (row["met"], row["text"]) for row in told}


def test_targets_are_judged_by_the_rows():
    even = {"samples_s": [1.0] * 40, "spread_90": 0.01, "host_waits": 0}
    times = [{"reference": {"median": value, "ci95": [value - 1, value + 1]}} for value in (5.5, 1.5)]
    found = verdicts(
        cell("peer", 1, peer="gantk", **even), cell("ratio", 1, times=times[0]),
        cell("peer", 16, peer="gantk", **even | {"spread_90": 0.031, "host_waits": 4}, of_conv=0.5),
        cell("ratio", 16, times=times[1]),
    )  # fmt: skip
    assert found == {
        ("times the reference's speed", 1): (True, "5.50 [4.50, 6.50]"),
        ("spread of single steps", 1): (True, "1.0%"),
        ("host waits in a step", 1): (True, "0"),
        ("times the reference's speed", 16): (False, "1.50 [0.50, 2.50]"),
        ("of the convolution ceiling", 16): (True, "50%"),
        ("spread of single steps", 16): (False, "3.1%"),
        ("host waits in a step", 16): (False, "4"),
    }


def test_a_target_that_was_not_measured_says_why():
    found = verdicts(
        cell("peer", 1, peer="gantk", samples_s=[1.0] * 29, spread_90=0.0),
        cell("peer", 1, peer="reference", status="skipped", why="reference is not here"),
        cell("ratio", 1, times={"gantk plain": {"median": 3.0, "ci95": [2.0, 4.0]}}),
        cell("peer", 16, peer="gantk", status="out of memory", why="CUDA out of memory"),
    )
    assert {met for met, _ in found.values()} == {None}
    assert {key: text for key, (_, text) in found.items()} == {
        ("times the reference's speed", 1): "not measured (reference is not here)",
        ("spread of single steps", 1): "not measured (29 steps are too few)",
        ("host waits in a step", 1): "not measured (only CUDA counts them)",
        ("times the reference's speed", 16): "not measured (it is not in this run)",
        ("of the convolution ceiling", 16): "not measured (CUDA out of memory)",
        ("spread of single steps", 16): "not measured (CUDA out of memory)",
        ("host waits in a step", 16): "not measured (CUDA out of memory)",
    }


def test_smaller_images_meet_no_target():
    row = rows.row("ratio", case="cyclegan-256-unet", batch=1, size=[128, 128], times={"reference": {"median": 9.0}})
    assert verdicts(row)["times the reference's speed", 1] == (None, "not measured (it is not in this run)")


# ---- peers


def peer_task(*sides: str, **folders: str) -> dict:
    (task,) = catalogue.comparisons(True, "target", folders)
    return {"part": "peer", "tiny": True} | task | {"sides": list(sides)}


def test_peers_are_named_without_being_imported_and_those_that_are_absent_are_skipped_rows():
    from peers.adapters import ADAPTERS

    assert set(catalogue.peer_names()) == set(ADAPTERS)
    row, turns = peers.measure(peer_task("reference"), "cpu")
    assert (row["status"], row["peer"]) == ("skipped", "reference") and "--peer reference=" in row["why"]
    assert (turns["part"], turns["status"], turns["why"]) == ("ratio", "skipped", "gantk's step failed")


def test_sides_of_a_case_are_measured_alone_and_then_take_turns():
    found = list(peers.measure(peer_task("gantk", "gantk plain"), "cpu"))
    own, plain, turns = found
    assert (own["mode"], own["notes"], own["of_conv"]) == ("captured", [steps.NO_GRAPHS], None)
    assert (plain["mode"], plain["notes"], plain["precision"]) == ("eager", [], "fp32")
    assert "train.fast.cuda_graph=false" in plain["settings"] and own["parameters"] == plain["parameters"]
    assert list(turns["turns_s"]) == ["gantk", "gantk plain"] and list(turns["times"]) == ["gantk plain"]
    low, high = turns["times"]["gantk plain"]["ci95"]
    assert 0 < low <= turns["times"]["gantk plain"]["median"] <= high
    assert "| cyclegan-256-unet | 128 x 128 | 1 | gantk plain | fp32 |" in table.markdown(found)


def test_a_side_that_does_not_fit_leaves_the_others(monkeypatch):
    def measured(own, effort):
        if own.engine.plan.fused:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 90 GiB")
        return steps.own_values(own, effort)

    monkeypatch.setattr(peers, "own_values", measured)
    own, plain, turns = peers.measure(peer_task("gantk", "gantk plain"), "cpu")
    assert (own["status"], plain["status"], turns["status"]) == ("out of memory", "ok", "skipped")
    assert own["parameters"] > 0 and own["median_s"] is None and turns["why"] == "gantk's step failed"


def test_a_folder_that_is_no_checkout_is_a_failed_row(tmp_path):
    row, _ = peers.measure(peer_task("reference", reference=str(tmp_path)), "cpu")
    assert row["status"] == "failed" and "is no checkout" in row["why"] and str(tmp_path) not in row["why"]


def test_a_peer_s_step_is_timed_and_counted(monkeypatch):
    from peers.side import Found

    class Peer:
        """A toolkit whose step is one convolution."""

        reason, folder, found = None, "/somewhere", Found("2a7af", "checkout")
        unable = staticmethod(lambda case: None)

        @staticmethod
        def build(folder, setup, first):
            weight = torch.nn.Parameter(torch.ones(1, 1, 3, 3))
            side = type("Side", (), {"weights": 9})()
            side.step = lambda batch: F.conv2d(batch["a"], weight, padding=1)
            return side

    Peer.module = Peer
    monkeypatch.setattr("peers.adapters.asked_for", lambda named: [Peer] if named == ["mine=/somewhere"] else [])
    row, _ = peers.measure(peer_task("mine", mine="/somewhere"), "cpu")
    assert (row["status"], row["parameters"], row["flops"]) == ("ok", 9, 2 * 9 * 128 * 128)
    assert row["settings"] == ["checkout 2a7af"]
    assert len(row["samples_s"]) == 2 and row["images_per_s"] > 0


@pytest.mark.slow
def test_costs_of_scoring_are_beside_what_they_come_on_top_of():
    from gpu import costs

    for what in catalogue.COSTS:
        (row,) = costs.measure({"part": "cost", "what": what, "tiny": True}, CPU)
        assert row["status"] == "ok" and row["ratio"] > 0 and row["beside_s"] > 0, json.dumps(row)
