"""Promises of the comparison with other toolkits: same batches, fair turns, no trace of their code, honest rows."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "benchmarks"))

from peers import cases, run
from peers.cases import Case
from peers.checkouts import commit_of, find_checkout
from peers.loops import CycleLoop, PairLoop, Parts
from peers.markdown import table
from peers.rows import joined
from peers.side import Schedule, Setup, Side, full_precision
from peers.speed import Turn, ratio, take_turns

from gantk.errors import GantkError

OPTIONS = """
import argparse, sys
class TrainOptions:
    def parse(self):
        parser = argparse.ArgumentParser()
        for name in ("dataroot", "checkpoints_dir", "model", "netG", "dataset_mode"):
            parser.add_argument("--" + name)
        for name in ("batch_size", "input_nc", "output_nc", "ngf", "ndf", "crop_size", "n_epochs", "n_epochs_decay"):
            parser.add_argument("--" + name, type=int, default=7)
        print("options of a chatty program")
        return parser.parse_args()
"""
MODELS = """
import importlib
def create_model(opt):
    return importlib.import_module("models." + opt.model + "_model").Model(opt)
"""
MODEL = """
import torch
from util.words import GREETING
class Model:
    model_names = ["G_A", "G_B"]
    def __init__(self, opt):
        self.opt, self.greeting, self.rates = opt, GREETING, 0
        self.netG_A, self.netG_B = (torch.nn.Conv2d(opt.input_nc, opt.output_nc, 3, padding=1) for _ in range(2))
    def setup(self, opt):
        parameters = [*self.netG_A.parameters(), *self.netG_B.parameters()]
        self.optimizer = torch.optim.Adam(parameters, lr=1e-3)
    def set_input(self, input):
        self.a, self.b = input["A"].to(self.opt.device), input["B"]
    def optimize_parameters(self):
        BROKEN
        loss = (self.netG_A(self.a) - self.b).abs().mean() + (self.netG_B(self.b) - self.a).abs().mean()
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.a.zero_()
    def update_learning_rate(self):
        self.rates += 1
        print("learning rate 0.1 -> 0.0")
"""


def checkout(folder: Path, greeting: str = "hello", broken: str = "pass") -> Path:
    """A program with the reference's files and names, of one convolution a generator."""
    files = {
        "options/__init__.py": "",
        "options/base_options.py": "",
        "options/train_options.py": OPTIONS,
        "models/__init__.py": MODELS,
        "models/cycle_gan_model.py": MODEL.replace("BROKEN", broken),
        "models/pix2pix_model.py": "",
        "util/__init__.py": "",
        "util/words.py": f"GREETING = {greeting!r}\n",
        "data/__init__.py": "",
    }
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


@pytest.fixture
def drive(monkeypatch, tmp_path, capsys):
    """The driver on two tiny cases: `drive("--peer", ...)` gives (exit code, rows, printed, complained)."""
    for name in list(cases.CASES):
        monkeypatch.delitem(cases.CASES, name)
    for kind in ("speed", "quality"):
        tiny = Case(f"tiny-{kind}", kind, "cyclegan", "resnet6", 32, 2, 2, 2, steps=5 if kind == "quality" else 0)
        monkeypatch.setitem(cases.CASES, tiny.name, tiny)
    for name in ("monai", "konfai"):
        monkeypatch.setattr(f"peers.{name}_networks.find_spec", lambda name: None)
    monkeypatch.setattr("peers.speed.SAMPLE", 0.01)
    file = tmp_path / "rows.jsonl"
    small = ["--set", "data.source.subjects=5", "--set", "data.source.slices=1", "--seconds", "0.01", "--device", "cpu"]

    def call(*arguments: object):
        code = run.main([*map(str, arguments), *small, "--json", str(file)])
        out, err = capsys.readouterr()
        found = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
        return code, found, out, err

    return call


def test_a_checkout_is_timed_beside_gantk_on_the_same_batches(drive, tmp_path):
    folder = checkout(tmp_path / "theirs")
    code, rows, out, _ = drive("--peer", f"reference={folder}", "--cases", "tiny-speed", "--table")
    assert code == 0
    assert [row["side"] for row in rows] == ["gantk", "gantk plain", "reference"]
    assert len({row["batches"] for row in rows}) == 1
    assert [row["machine"]["precision"] for row in rows[1:]] == ["fp32", "fp32"]
    theirs = rows[-1]
    assert (theirs["peer"], theirs["status"], theirs["weights"]) == ("reference", "ok", 2 * (9 + 1))
    assert rows[0]["weights"] == rows[1]["weights"] > 1000
    assert len({len(row["speed"]["step_seconds"]) for row in rows}) == 1  # every round took every side
    low, high = theirs["ratio"]["gantk"]["ci95"]
    assert low <= theirs["ratio"]["gantk"]["median"] <= high
    assert "options of a chatty program" not in out
    assert "| tiny-speed | reference, fp32 | files " in out


def test_rows_have_every_key_of_a_benchmark_row(drive, tmp_path):
    peer = f"reference={checkout(tmp_path / 'theirs')}"
    _, rows, *_ = drive("--peer", peer, "--cases", "tiny-*", "--steps", 2, "--filters", 3)
    wanted = """
        format suite recipe label summary profile settings grid seed status error started wall_s run method domains
        paired metrics baselines verdict speed selection published system curve alarms machine versions git
        recipe_hash data_hash jobs peer
    """
    assert len(rows) == 6
    assert len({row["label"] for row in rows}) == len(rows)
    assert {row["recipe"] for row in rows} == {"tiny-speed-f3", "tiny-quality-f3"}  # other networks, another name
    for row in rows:
        assert set(wanted.split()) <= row.keys(), row["label"]
        assert {"images_per_s", "seconds", "steps", "step_seconds"} <= row["speed"].keys()
    assert rows[0]["recipe_hash"] != rows[1]["recipe_hash"]  # default and plain are different recipes


def test_quality_is_scored_by_the_same_metrics_after_the_same_batches(drive, tmp_path):
    folder = checkout(tmp_path / "theirs")
    code, rows, out, _ = drive("--peer", f"reference={folder}", "--cases", "tiny-quality", "--table")
    assert code == 0
    assert [row["side"] for row in rows] == ["gantk", "gantk + structure", "reference"]
    assert len({row["batches"] for row in rows}) == 1
    assert {row["speed"]["steps"] for row in rows} == {5}
    for row in rows:
        for key in ("a_to_b", "b_to_a"):
            assert row["metrics"][key]["psnr"]["n"] == rows[0]["metrics"][key]["psnr"]["n"] > 0
        assert row["baselines"]["identity"] == rows[0]["baselines"]["identity"]
    scores = [row["metrics"]["a_to_b"]["psnr"]["value"] for row in rows]
    assert len(set(scores)) == 3
    assert "learning rate" not in out
    assert "| tiny-quality | identity | T1 -> T2 |" in out


def test_equal_seconds_give_each_side_the_steps_it_has_time_for(drive, tmp_path):
    folder = checkout(tmp_path / "theirs")
    code, rows, *_ = drive("--peer", f"reference={folder}", "--cases", "tiny-quality", "--train-seconds", 0.3)
    steps = {row["side"]: row["speed"]["steps"] for row in rows}
    assert code == 0
    assert steps["reference"] > steps["gantk"]  # one convolution is quicker than a ResNet


def test_a_missing_peer_is_a_skipped_row_that_says_how_to_have_it(drive):
    code, rows, out, _ = drive("--cases", "tiny-speed", "--table")
    assert code == 0
    assert {row["peer"]: row["status"] for row in rows} == dict.fromkeys(run.ADAPTERS, "skipped")
    reasons = {row["peer"]: row["error"] for row in rows}
    assert "git clone https://github.com/junyanz/pytorch-CycleGAN-and-pix2pix" in reasons["reference"]
    assert "--peer cut=FOLDER" in reasons["cut"]
    assert "pip install monai" in reasons["monai"]
    assert "| peers | konfai | skipped |" in out


def test_a_peer_without_the_parts_of_any_case_is_a_skipped_row(drive, monkeypatch, tmp_path):
    monkeypatch.setitem(cases.CASES, "tiny-speed", Case("tiny-speed", "speed", "cut", "resnet6", 32, 1, 2, 2))
    _, rows, *_ = drive("--peer", f"reference={checkout(tmp_path / 'theirs')}", "--cases", "tiny-speed")
    assert [(row["status"], row["peer"]) for row in rows] == [("skipped", "reference")]
    assert "it has no cut" in rows[0]["error"]


@pytest.mark.parametrize(
    "arguments, words",
    [
        (
            ["--peer", "reference={tmp}"],
            "no checkout of pytorch-CycleGAN-and-pix2pix: it has no models/cycle_gan_mod",
        ),
        (["--peer", "cut={tmp}/nowhere"], "there is no folder"),
        (["--peer", "monai={tmp}"], "MONAI is a package, not a folder"),
        (["--peer", "referense"], "Did you mean 'reference'?"),
        (["--cases", "tiny-sped"], "Did you mean 'tiny-speed'?"),
        (["--set", "data.sise=[8,8]", "--peer", "reference={fake}"], "data.sise"),
        (["--table"], "there are no rows to print"),
    ],
)
def test_wrong_input_is_one_message(drive, tmp_path, arguments, words):
    fake = checkout(tmp_path / "fake")
    code, rows, _, err = drive(*(argument.format(tmp=tmp_path, fake=fake) for argument in arguments))
    assert (code, rows) == (2, [])
    assert words in err
    assert "Traceback" not in err


def test_a_file_that_is_no_rows_is_not_overwritten(drive, tmp_path):
    (tmp_path / "rows.jsonl").write_text('{"precious": 1}\n')
    code, _, _, err = drive("--cases", "tiny-speed")
    assert code == 2
    assert "holds lines that are no rows of this benchmark" in err
    assert (tmp_path / "rows.jsonl").read_text() == '{"precious": 1}\n'


def test_a_crash_of_a_peer_is_a_row_that_says_where(drive, tmp_path):
    folder = checkout(tmp_path / "theirs", broken='raise ValueError("no such luck")')
    code, rows, out, _ = drive("--peer", f"reference={folder}", "--cases", "tiny-*", "--steps", 2, "--table")
    assert code == 1
    failed = [row for row in rows if row["status"] == "failed"]
    assert [row["recipe"] for row in failed] == ["tiny-speed", "tiny-quality"]
    assert "ValueError: no such luck  (cycle_gan_model.py:" in failed[0]["error"]
    assert [row["side"] for row in rows if row["status"] == "ok"] == ["gantk", "gantk + structure"]
    assert "| tiny-speed | reference | failed |" in out


def test_a_peer_whose_weights_are_no_numbers_has_no_figures(drive, tmp_path):
    folder = checkout(tmp_path / "theirs", broken='self.netG_A.weight.data.fill_(float("nan"))')
    code, rows, *_ = drive("--peer", f"reference={folder}", "--cases", "tiny-*", "--steps", 2)
    lost = [row for row in rows if row["peer"]]
    assert code == 1
    assert [row["status"] for row in lost] == ["failed", "failed"]
    assert all("no longer finite" in row["error"] for row in lost)
    assert all("metrics" not in row for row in lost)


def test_a_row_measured_again_replaces_the_old_one_and_the_skipped_one():
    old = [
        {"label": "one", "peer": "x", "status": "ok", "at": 1},
        {"label": "peers y", "peer": "y", "status": "skipped", "at": 1},
        {"label": "two", "peer": "x", "status": "ok", "at": 1},
    ]
    new = [
        {"label": "two", "peer": "x", "status": "ok", "at": 2},
        {"label": "three", "peer": "y", "status": "ok", "at": 2},
    ]
    assert [(row["label"], row["at"]) for row in joined(old, new)] == [("one", 1), ("two", 2), ("three", 2)]


# ---- a checkout's code


def built(folder: Path):
    from peers.reference import build

    case = Case("tiny", "speed", "cyclegan", "resnet6", 32, 1, 2, 2)
    setup = Setup(case, {"a": 1, "b": 1}, torch.device("cpu"), 0, Schedule(steps=6, per_epoch=3))
    return build(folder, setup, {})


def test_nothing_of_a_checkout_stays_behind(tmp_path, monkeypatch):
    mine = object()
    monkeypatch.setitem(sys.modules, "data", mine)
    path, arguments = list(sys.path), list(sys.argv)
    folder = checkout(tmp_path / "theirs")
    files = sorted(folder.rglob("*"))
    built(folder)
    assert sys.modules["data"] is mine
    assert not {"models", "options", "util", "models.cycle_gan_model"} & sys.modules.keys()
    assert (sys.path, sys.argv) == (path, arguments)
    assert sorted(folder.rglob("*")) == files  # no compiled files either


def test_two_checkouts_with_the_same_names_keep_apart(tmp_path):
    first, second = (built(checkout(tmp_path / word, word)) for word in ("one", "two"))
    assert (first.model.greeting, second.model.greeting) == ("one", "two")
    assert first.model.opt.input_nc == 1


def test_the_learning_rate_moves_once_an_epoch(tmp_path):
    side = built(checkout(tmp_path / "theirs"))
    for _ in range(7):
        side.step({"a": torch.ones(1, 1, 32, 32), "b": torch.ones(1, 1, 32, 32)})
    assert side.model.rates == 2
    assert (side.model.opt.n_epochs, side.model.opt.n_epochs_decay) == (1, 1)


def test_a_checkout_is_named_by_its_own_commit_only(tmp_path):
    def git(*words: str) -> str:
        who = ["-c", "user.name=n", "-c", "user.email=e@x"]
        return subprocess.run(
            ["git", "-C", str(outer), *who, *words], capture_output=True, text=True, check=True
        ).stdout

    outer = checkout(tmp_path / "outer")
    inner = checkout(outer / "inner")
    git("init", "-q")
    git("add", ".")
    git("commit", "-qm", "all")
    assert commit_of(outer) == git("rev-parse", "HEAD")[:12]
    assert commit_of(inner) is None
    files = ("models/cycle_gan_model.py",)
    before = find_checkout(inner, called="reference", url="https://host/name", files=files)
    (inner / "util" / "words.py").write_text("GREETING = 'changed'\n")
    after = find_checkout(inner, called="reference", url="https://host/name", files=files)
    assert before.version.startswith("files ")
    assert before != after
    assert commit_of(outer).endswith("+changes")


# ---- taking turns


class Recorder(Side):
    """Remembers who was asked when, and takes so many seconds of a clock that it moves itself."""

    def __init__(self, name: str, calls: list, clock: list, seconds: float):
        self.label, self.calls, self.now, self.seconds = name, calls, clock, seconds

    def step(self, batch):
        self.calls.append((self.label, float(batch["a"][0])))
        self.now[0] += self.seconds
        batch["a"].zero_()  # what a side does to its batch is nobody else's

    def enter(self):
        return False


def recorded(seconds: dict[str, float], numbers: dict[str, int] | None = None):
    calls, now = [], [0.0]
    turns = {
        name: Turn(
            Recorder(name, calls, now, each),
            [{"a": torch.tensor([float(k + (numbers or {}).get(name, 0))]), "b": torch.zeros(1)} for k in range(3)],
            lambda: None,
            lambda: now[0],
        )
        for name, each in seconds.items()
    }
    return turns, calls


def test_the_order_is_turned_around_from_round_to_round():
    turns, calls = recorded({"x": 1.0, "y": 2.0})
    samples = take_turns(turns, seconds=12.0)
    assert samples == {"x": [1.0] * 4, "y": [2.0] * 4}
    assert "".join(name for name, _ in calls) == "xx" + "yy" + "xy" + "yx" + "xy" + "yx"


def test_a_side_settles_untimed_at_first_and_where_memory_was_handled_otherwise(monkeypatch):
    turns, calls = recorded({"x": 1.0, "y": 2.0})
    now = ["system"]

    def enter(mode):
        changed, now[0] = mode != now[0], mode
        return changed

    turns["x"].side.settling = 2
    monkeypatch.setattr(turns["x"].side, "enter", lambda: enter("keep"))
    monkeypatch.setattr(turns["y"].side, "enter", lambda: enter("system"))
    samples = take_turns(turns, seconds=12.0)
    assert samples == {"x": [1.0] * 4, "y": [2.0] * 4}
    assert "".join(name for name, _ in calls) == "xx" + "xx" + "y" + "yy" + "xxyy" + "yxx" + "xyy" + "yxx"
    assert turns["x"].digest == turns["y"].digest  # what settles is no part of what is compared


def test_every_side_sees_the_same_batches_whatever_the_others_do_to_theirs():
    turns, calls = recorded({"x": 1.0, "y": 2.0})
    take_turns(turns, seconds=12.0)
    seen = {name: [value for who, value in calls if who == name] for name in "xy"}
    assert seen["x"] == seen["y"] == [0, 1, 2, 0, 1, 2]
    assert turns["x"].digest == turns["y"].digest


def test_different_batches_are_never_compared():
    turns, _ = recorded({"x": 1.0, "y": 1.0}, {"y": 1})
    with pytest.raises(GantkError, match="different batches"):
        take_turns(turns, seconds=1.0)


def test_quick_steps_are_timed_in_stretches_and_slow_ones_have_enough_rounds():
    quick, _ = recorded({"x": 0.01, "y": 0.02})
    assert {len(samples) for samples in take_turns(quick, seconds=3.6).values()} == {10}  # rounds of 12 steps
    assert quick["x"].taken == quick["y"].taken == 2 + 12 * 10
    slow, _ = recorded({"x": 100.0, "y": 50.0})
    assert {len(samples) for samples in take_turns(slow, seconds=1.0).values()} == {4}


def test_a_ratio_is_of_rounds_not_of_means():
    found = ratio([2.0, 20.0, 2.0, 2.0], [1.0, 10.0, 1.0, 1.0])
    assert found == {"median": 2.0, "ci95": [2.0, 2.0], "rounds": 4}
    wide = ratio([1.0, 2.0, 3.0, 4.0, 5.0], [1.0] * 5)
    assert wide["ci95"][0] < 3.0 < wide["ci95"][1]
    assert wide == ratio([1.0, 2.0, 3.0, 4.0, 5.0], [1.0] * 5)


def test_full_precision_is_given_back():
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        with full_precision():
            assert torch.get_float32_matmul_precision() == "highest"
        assert torch.get_float32_matmul_precision() == "high"
    finally:
        torch.set_float32_matmul_precision(before)


# ---- loops around networks


def parts() -> Parts:
    def adversarial(answer, real, judging):
        return ((answer - float(real)) ** 2).mean()

    return Parts(
        generator=lambda a, b: nn.Conv2d(a, b, 3, padding=1),
        judge=lambda a: nn.Conv2d(a, 1, 4, stride=2),
        adversarial=adversarial,
    )


@pytest.mark.parametrize("loop, judged", [(CycleLoop, {"b": 1, "a": 1}), (PairLoop, {"b": 2})])
def test_a_loop_trains_all_its_networks_and_lets_the_rate_fall(loop, judged):
    case = Case("tiny", "quality", "cyclegan", "unet", 128)
    side = loop(parts(), Setup(case, {"a": 1, "b": 1}, torch.device("cpu"), 0, Schedule(4)))
    assert {to: network.in_channels for to, network in side.judges.items()} == judged
    before = [network.weight.clone() for network in side.networks()]
    rng = torch.Generator().manual_seed(0)
    batch = {name: torch.rand(2, 1, 16, 16, generator=rng) for name in "ab"}
    rates = []
    for _ in range(4):
        rates.append(side.optimizers[0].param_groups[0]["lr"])
        side.step(batch)
    assert np.allclose(np.array(rates) / 2e-4, [1.0, 1.0, 1.0, 0.5])
    assert not any(torch.equal(old, network.weight) for old, network in zip(before, side.networks(), strict=True))
    assert all(parameter.requires_grad for network in side.networks() for parameter in network.parameters())
    assert side.translate(batch["a"], "b").shape == (2, 1, 16, 16)


def test_the_generators_step_leaves_no_gradient_in_the_discriminators():
    case = Case("tiny", "quality", "pix2pix", "unet", 128)
    side = PairLoop(parts(), Setup(case, {"a": 1, "b": 1}, torch.device("cpu")))
    side._freeze(True)
    loss, _ = side.losses({name: torch.ones(1, 1, 16, 16) for name in "ab"})
    loss.backward()
    assert side.judges["b"].weight.grad is None
    assert side.generators["b"].weight.grad is not None


def test_monais_networks_and_metrics_fit(tmp_path):
    pytest.importorskip("monai", reason="monai is not installed")
    from peers import monai_networks

    case = Case("tiny", "speed", "pix2pix", "unet", 128, 1, 2, 2)
    side = monai_networks.build(None, Setup(case, {"a": 1, "b": 1}, torch.device("cpu")), {})
    side.step({name: torch.zeros(1, 1, 128, 128) for name in "ab"})
    image = torch.rand(2, 1, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    assert monai_networks.own_scores(image, image * 0.9, -1.0, 2.0)["psnr"] > 20


# ---- the cases and the table


def test_every_case_is_a_recipe_whose_networks_take_its_size():
    from peers.own import WAYS, checked

    from gantk.method import Geometry

    for case in cases.CASES.values():
        small = Case(**{**vars(case), "width": 2, "judge": 2})
        model = checked(small, WAYS["gantk" if case.paired else "gantk + structure"])
        side = case.window or case.size
        method = model.method(Geometry(2, (side, side), {"a": 1, "b": 1}))
        assert method.directions()[0] == "b"
        assert method.paired == case.paired


def test_the_table_has_a_line_for_each_side_and_one_for_each_failure():
    base = {
        "recipe": "case",
        "status": "ok",
        "kind": "speed",
        "side": "reference",
        "peer": "reference",
        "version": "abc",
        "machine": {"precision": "fp32"},
    }
    row = base | {
        "version": "abc",
        "machine": {"precision": "fp32"},
        "weights": 1_500_000,
        "speed": {"step_seconds": [0.2, 0.4, 0.3]},
        "ratio": {"gantk": {"median": 2.0, "ci95": [1.5, 2.5]}},
        "metrics": {},
        "baselines": {},
    }
    lost = base | {"status": "failed", "error": "a | b"}
    own = row | {"side": "gantk", "peer": None, "beside": "reference", "machine": {"precision": "bf16"}, "ratio": {}}
    text = table([own, row, lost])
    assert "| case | gantk, bf16 (beside reference) | abc | 1.50 M | 0.3000 |  |  | 3 |" in text
    assert "| case | reference, fp32 | abc | 1.50 M | 0.3000 | 2.00 [1.50, 2.50] |  | 3 |" in text
    assert "| case | reference | failed | a \\| b |" in text
    assert table([]) == "\n"
