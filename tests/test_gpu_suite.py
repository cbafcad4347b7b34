"""The GPU benchmark, tried out on the CPU: every part measures, everything that goes wrong is a row."""

from __future__ import annotations

import json
import multiprocessing
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from gpu import captured, cases, catalogue, ceilings, machine, peers, rows, steps, suite, table, timing
from gpu.clock import Clock
from gpu.flops import counted
from gpu.training import step_seconds
from gpu.worker import serve

from gantk.recipe import all_recipes, load_recipe

SUITE = Path(__file__).parent.parent / "benchmarks" / "gpu_suite.py"
CPU = torch.device("cpu")


def tiny_task(case: str, **changes) -> dict:
    task = next(each for each in cases.tasks(True, [case]) if each["part"] == "step")
    return task | {"tiny": True} | changes


def subject(case: str = "cyclegan", **changes) -> steps.Subject:
    task = tiny_task(case, **changes)
    return steps.Subject.build(task["recipe"], task["settings"], task["batch"], task["precision"], "cpu")


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
    assert {row["part"] for row in found} == {"definitions", "environment", "ceiling", "step", "training", "end"}
    for row in found:
        assert set(row) == {"part", "status", "why", *rows.FIELDS[row["part"]]}
        assert (row["status"], row["why"]) == ("ok", None)
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


def done(task):
    if task["part"] == "step":
        about = {"case": task["case"], "size": task["size"], "batch": task["batch"], "precision": task["precision"]}
        for mode in ("eager", "captured"):
            if mode == "captured" and task["captured"]:
                yield rows.row("step", rows.REFUSED, task["captured"], **about, mode=mode)
            else:
                yield rows.row("step", **about, mode=mode, samples_s=[1.0], median_s=1.0, spread=0.0)
    yield "done", True


def test_what_does_not_fit_into_the_minutes_is_a_row_that_says_so(tmp_path):
    found, pretender = told(tmp_path, done, minutes=0.0)
    skipped = [row for row in found if row["part"] not in ("definitions", "end")]
    assert {(row["status"], row["why"]) for row in skipped} == {("skipped", "skipped: out of time budget")}
    assert {row["part"] for row in skipped} == set(suite.PARTS)
    assert {row["mode"] for row in skipped if row["part"] == "step"} == {"eager", "captured"}
    assert found[-1]["counts"] == {"skipped": len(skipped)}
    assert "out of time budget" in table.markdown(found)


def test_a_process_that_dies_costs_one_task_and_is_started_again(tmp_path):
    def say(task):
        if task["part"] == "step" and task["case"] == "munit":
            yield rows.row("step", case="munit", mode="eager", median_s=1.0, size=[32, 32])
            yield "killed", "the process that measured ended with code -11"
        else:
            yield from done(task)

    found, pretender = told(tmp_path, say, tiny=True, parts=("step",), cases=["munit", "cut"])
    ended = [(row["case"], row["mode"], row["status"]) for row in found if row["part"] == "step"]
    assert ended == [
        ("munit", "eager", "ok"), ("munit", "captured", "killed"), ("cut", "eager", "ok"), ("cut", "captured", "ok"),
    ]  # fmt: skip
    assert pretender.ended == 2  # after the crash, and at the end


def test_a_capture_that_was_refused_once_is_not_tried_again_for_that_case(tmp_path):
    def say(task):
        if task["part"] == "step" and not task["captured"] and task["case"] == "cut":
            about = {"case": "cut", "size": task["size"], "batch": task["batch"], "precision": task["precision"]}
            yield rows.row("step", rows.REFUSED, "RuntimeError: a wait", **about, mode="captured")
            yield "done", False  # and the card no longer answers
        else:
            yield from done(task)

    found, pretender = told(tmp_path, say, parts=("step",), cases=["cut", "style"])
    whys = [row["why"] for row in found if row.get("case") == "cut" and row["mode"] == "captured"]
    assert whys[0] == "RuntimeError: a wait" and len(whys) > 3
    assert set(whys[1:]) == {"not tried again; at 256 x 256, batch 1, bf16: RuntimeError: a wait"}
    assert all(row["status"] == "ok" for row in found if row.get("case") == "style")
    assert pretender.ended == 2


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
    (what, why), first, row, last = (here.recv() for _ in range(4))
    assert what == "failed" and why.startswith("KeyError") and first == last == ("done", True)
    assert row["kind"] == "copy" and row["status"] == "ok"


def test_a_process_that_is_gone_is_an_answer_too():
    worker = suite.Worker("cpu")
    worker.process.kill()
    worker.process.join(60)
    (answer,) = worker.answers({"part": "environment"}, Clock(9), 60)
    assert answer == ("killed", "the process that measured ended with code -9")
    worker.end()


def test_a_task_that_takes_too_long_is_given_up():
    worker = suite.Worker("cpu")
    worker.fresh = False  # no time to start either
    (answer,) = worker.answers({"part": "environment", "when": "at rest", "command": ""}, Clock(9), 0.0)
    assert answer == ("killed", "took longer than 0 s")
    worker.end()


# ---- steps


def test_a_method_that_raises_is_a_row(monkeypatch):
    def broken(self, batch):
        raise ValueError("no such thing\nas a second line")

    monkeypatch.setattr("gantk_cyclegan.model.CycleGAN.generator_losses", broken)
    found = list(steps.measure(tiny_task("cyclegan"), "cpu"))
    assert [(row["mode"], row["status"], row["why"]) for row in found] == [
        ("eager", "failed", "ValueError: no such thing"), ("captured", "refused", "ValueError: no such thing"),
    ]  # fmt: skip
    assert all(row["method"] == "cyclegan" and row["median_s"] is None for row in found)


def test_a_recipe_that_cannot_be_built_is_a_row_for_each_mode():
    found = list(steps.measure(tiny_task("cyclegan", settings=["data.size=[33, 33]"]), "cpu"))
    assert [row["status"] for row in found] == ["failed"] * 2
    assert all("33 x 33" in row["why"] for row in found)


def test_out_of_memory_is_a_row_and_the_graph_is_not_tried(monkeypatch):
    def full(self, batch):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9.00 GiB")

    monkeypatch.setattr("gantk_cyclegan.model.CycleGAN.generator_losses", full)
    found = list(steps.measure(tiny_task("cyclegan"), "cpu"))
    assert [(row["mode"], row["status"]) for row in found] == [
        ("eager", "out of memory"),
        ("captured", "out of memory"),
    ]
    assert "out of memory" in found[0]["why"] and found[1]["why"] == "the eager step did not fit"


def test_a_captured_step_is_the_eager_step_to_the_bit():
    plain, recorded = subject(), subject()
    for _ in range(captured.WARM_UP + 2):
        last = plain.step()
    replay = captured.capture(recorded.engine, recorded.batch)
    replay.step()
    again = replay.step()
    assert plain.engine.step == recorded.engine.step == captured.WARM_UP + 2
    assert {name: float(loss) for name, loss in last.items()} == {name: float(loss) for name, loss in again.items()}
    state = recorded.engine.method.state_dict()
    for name, tensor in plain.engine.method.state_dict().items():
        assert torch.equal(tensor, state[name]), name


@pytest.mark.parametrize("optimizer", ["adam", "lbfgs"])  # the second keeps lists of its steps
def test_comparing_a_capture_with_eager_steps_leaves_no_trace_and_finds_them_equal(optimizer):
    settings = [*tiny_task("regression")["settings"], f"train.optimizer={{ name = '{optimizer}' }}"]
    compared, other = (subject("regression", settings=settings) for _ in range(2))
    first = captured.capture(compared.engine, compared.batch, compare=True)
    assert first.difference == 0.0
    second = captured.capture(other.engine, other.batch)
    for _ in range(captured.COMPARED):
        second.step()
    pairs = zip(first.step().values(), second.step().values(), strict=True)
    assert all(float(a) == float(b) for a, b in pairs)


def test_a_graph_that_leaves_something_out_is_a_row_that_says_so(monkeypatch):
    class Forgetful(captured.StandIn):
        """Gives the losses of its first replay ever after, as a graph does that has them from Python."""

        def replay(self):
            self.losses = getattr(self, "losses", None) or {k: v * 2 for k, v in self._call().items()}
            return self.losses

    monkeypatch.setattr(captured, "StandIn", Forgetful)
    found = list(steps.measure(tiny_task("regression"), "cpu"))
    assert [row["status"] for row in found] == ["ok", "differs"]
    assert found[1]["loss_difference"] > steps.TOLERANCE and "leaves something out" in found[1]["why"]


def test_every_method_of_the_bundled_recipes_is_timed_at_every_size_that_is_asked_for():
    own = {name for name, (_, owner) in all_recipes().items() if owner == "gantk"}
    used = {load_recipe(name).tables["method"]["name"] for name in own}
    found = [task for task in cases.tasks(False) if task["part"] == "step"]
    timed = {}
    for task in found:
        method = load_recipe(task["recipe"]).tables["method"]["name"]
        timed.setdefault((method, task["dims"]), set()).add((task["size"][0], task["batch"], task["precision"]))
    assert {method for method, _ in timed} == used
    for method in used:
        wanted = {(s, b, p) for s in (128, 256, 512) for b in (1, 16) for p in ("bf16", "fp32")}
        assert wanted <= timed[method, 2], method
    assert (96, 1, "bf16") in timed["dualgan", 3] and (128, 16, "fp32") in timed["pix2pix", 3]
    keys = [(task["case"], *task["size"], task["batch"], task["precision"]) for task in found]
    assert len(keys) == len(set(keys))


def test_every_case_is_a_recipe_that_checks():
    for task in cases.tasks(False):
        if task["part"] == "step" and task["batch"] == 1 and task["precision"] == "bf16":
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


@pytest.mark.parametrize("task", [*catalogue.ceilings()], ids=lambda task: "-".join(map(str, task.values())))
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
    assert timing.summary([4.0]) == {"samples_s": [4.0], "median_s": 4.0, "spread": 0.0}


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


def test_optimizers_are_made_ready_for_a_capture_and_keep_their_schedule():
    found = subject()
    found.step()
    captured.make_capturable(found.engine)
    for name, optimizer in found.engine.optimizers.items():
        (group,) = optimizer.param_groups
        assert group["capturable"] and isinstance(group["lr"], torch.Tensor)
        assert float(group["lr"]) == pytest.approx(found.engine.base_lrs[name][0])
        assert all(isinstance(state["step"], torch.Tensor) for state in optimizer.state.values())


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


# ---- peers


def test_peers_are_named_without_being_imported_and_those_that_are_absent_are_skipped_rows():
    from peers.adapters import ADAPTERS

    assert set(catalogue.peer_names()) == set(ADAPTERS)
    task = next(each for each in catalogue.comparisons(True, {}) if each["peer"] == "reference")
    (row,) = peers.measure({"part": "peer", "tiny": True} | task, "cpu")
    assert (row["status"], row["peer"]) == ("skipped", "reference") and "--peer reference=" in row["why"]


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
    task = {"part": "peer", "tiny": True, "case": "cyclegan-128-unet", "peer": "mine", "folder": "/somewhere"}
    (row,) = peers.measure(task, "cpu")
    assert (row["status"], row["parameters"], row["flops"]) == ("ok", 9, 2 * 9 * 128 * 128)
    assert row["settings"] == ["checkout 2a7af"]
    assert len(row["samples_s"]) == 2 and row["images_per_s"] > 0


@pytest.mark.slow
def test_costs_of_scoring_are_beside_what_they_come_on_top_of():
    from gpu import costs

    for what in catalogue.COSTS:
        (row,) = costs.measure({"part": "cost", "what": what, "tiny": True}, CPU)
        assert row["status"] == "ok" and row["ratio"] > 0 and row["beside_s"] > 0, json.dumps(row)
