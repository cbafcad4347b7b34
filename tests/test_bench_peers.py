"""The harness and the comparison with other toolkits: same batches, fair turns, no trace of their code, honest rows."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pytest
import torch
from tiny import ROOT

sys.path.insert(0, str(ROOT / "benchmarks"))

import harness  # noqa: E402
from peers import cases, run  # noqa: E402
from peers.cases import Case  # noqa: E402
from peers.checkouts import Reference  # noqa: E402
from peers.sides import HandedTurn, Setup, Side, checked  # noqa: E402

from gantk.errors import GantkError  # noqa: E402
from gantk.method import Geometry  # noqa: E402

pytestmark = pytest.mark.bench
CPU = torch.device("cpu")
FILES = {  # a program with the reference's files and names, of one convolution a generator
    "options/train_options.py": """
import argparse, sys
class TrainOptions:
    def parse(self):
        print("options of a chatty program")
        given = zip(sys.argv[1::2], sys.argv[2::2])
        return argparse.Namespace(**{name[2:]: int(value) if value.isdigit() else value for name, value in given})
""",
    "models/__init__.py": """
import importlib
def create_model(opt):
    return importlib.import_module("models." + opt.model + "_model").Model(opt)
""",
    "models/cycle_gan_model.py": """
import torch
from util.words import GREETING
class Model:
    model_names = ["G_A", "G_B"]
    def __init__(self, opt):
        self.opt, self.greeting = opt, GREETING
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
""",
    "util/words.py": "GREETING = 'hello'",
}


def checkout(folder: Path, greeting: str = "hello", broken: str = "pass") -> Path:
    """The program in a folder."""
    empty = ("options/__init__", "options/base_options", "models/pix2pix_model", "util/__init__", "data/__init__")
    for name, text in (FILES | {f"{name}.py": "" for name in empty}).items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text.replace("BROKEN", broken).replace("hello", greeting))
    return folder


@pytest.fixture
def drive(monkeypatch, tmp_path, capsys):
    """The driver on one tiny case: `drive("--peer", ...)` gives (exit code, rows, printed, complained)."""
    for name in list(cases.CASES):
        monkeypatch.delitem(cases.CASES, name)
    monkeypatch.setitem(cases.CASES, "tiny", Case("tiny", "cyclegan", "resnet6", 32, 2, 2, 2))
    monkeypatch.setattr("peers.packages.find_spec", lambda name: None)
    monkeypatch.setattr(harness, "SAMPLE", 0.01)
    file = tmp_path / "rows.jsonl"
    small = ["--set", "data.source.subjects=5", "--set", "data.source.slices=1", "--seconds", "0.01", "--device", "cpu"]

    def call(*arguments: object):
        code = run.main([*map(str, arguments), *small, "--json", str(file)])
        out, err = capsys.readouterr()
        found = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
        return code, found, out, err

    return call


def test_a_checkout_is_timed_beside_gantk_on_the_same_batches(drive, tmp_path):
    code, rows, out, _ = drive("--peer", f"reference={checkout(tmp_path / 'theirs')}", "--cases", "tiny", "--table")
    assert code == 0, rows
    assert [row["side"] for row in rows] == ["gantk", "gantk plain", "reference"]
    assert len({row["batches"] for row in rows}) == len({len(row["speed"]["step_seconds"]) for row in rows}) == 1
    assert [row["machine"]["precision"] for row in rows[1:]] == ["fp32", "fp32"]
    assert rows[0]["recipe_hash"] != rows[1]["recipe_hash"]  # default and plain are different recipes
    theirs, ratio = rows[-1], rows[-1]["ratio"]["gantk"]
    assert (theirs["peer"], theirs["status"], theirs["weights"]) == ("reference", "ok", 2 * (9 + 1))
    assert ratio["ci95"][0] <= ratio["median"] <= ratio["ci95"][1]
    assert "options of a chatty program" not in out and "| tiny | reference, fp32 | files " in out


def test_what_is_not_here_is_a_skipped_row_that_says_how_to_have_it(drive):
    code, rows, out, _ = drive("--cases", "tiny", "--table")
    reasons = {row["peer"]: row["error"] for row in rows if row["status"] == "skipped"}
    assert code == 0 and reasons.keys() == set(cases.PEERS) and "| peers | konfai | skipped |" in out
    assert "git clone https://github.com/junyanz/pytorch-CycleGAN-and-pix2pix" in reasons["reference"]
    assert "--peer cut=FOLDER" in reasons["cut"] and "pip install monai" in reasons["monai"]


@pytest.mark.parametrize(
    ("broken", "words"),
    [
        ('raise ValueError("no such luck")', "ValueError: no such luck  (cycle_gan_model.py:"),
        ('self.netG_A.weight.data.fill_(float("nan"))', "no longer finite"),
    ],
)
def test_a_peer_that_fails_is_a_row_that_says_why(drive, tmp_path, broken, words):
    code, rows, *_ = drive("--peer", f"reference={checkout(tmp_path / 'theirs', broken=broken)}", "--cases", "tiny")
    assert code == 1 and [row["status"] for row in rows] == ["failed"] and words in rows[0]["error"]


def test_nothing_of_a_checkout_stays_behind_and_two_keep_apart(tmp_path, monkeypatch):
    mine = object()
    monkeypatch.setitem(sys.modules, "data", mine)
    path, arguments = list(sys.path), list(sys.argv)
    setup = Setup(Case("tiny", "cyclegan", "resnet6", 32, 1, 2, 2), {"a": 1, "b": 1}, CPU)
    for word in ("one", "two"):
        folder = checkout(tmp_path / word, word)
        files = sorted(folder.rglob("*"))
        assert Reference(folder, setup, {}).model.greeting == word
        assert sorted(folder.rglob("*")) == files  # no compiled files either
    assert sys.modules["data"] is mine and (sys.path, sys.argv) == (path, arguments)
    assert not {"models", "options", "util", "models.cycle_gan_model"} & sys.modules.keys()


def test_the_order_is_turned_around_and_only_sides_of_the_same_batches_are_compared(monkeypatch):
    calls, now = [], [0.0]
    monkeypatch.setattr(harness.time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(harness, "keep_memory", lambda keep: False)

    class Recorder(Side):
        def __init__(self, label: str, seconds: float):
            self.label, self.seconds = label, seconds

        def step(self, batch):
            calls.append((self.label, int(batch["a"])))
            now[0] += self.seconds
            batch["a"].zero_()  # what a side does to its batch is nobody else's

    def turn(name: str, seconds: float, off: int = 0) -> HandedTurn:
        batches = lambda k: {"a": torch.tensor([k % 3 + off]), "b": torch.zeros(1)}  # noqa: E731
        return HandedTurn(Recorder(name, seconds), batches, CPU)

    turns = {"x": turn("x", 1.0), "y": turn("y", 2.0)}
    assert harness.take_turns(turns, seconds=12.0) == {"x": [1.0] * 4, "y": [2.0] * 4}
    assert "".join(name for name, _ in calls) == "xx" + "yy" + "xy" + "yx" + "xy" + "yx"
    seen = {name: [value for who, value in calls if who == name] for name in "xy"}
    assert seen["x"] == seen["y"] == [0, 1, 2, 0, 1, 2] and turns["x"].digest == turns["y"].digest
    with pytest.raises(GantkError, match="different batches"):
        harness.take_turns({"x": turn("x", 1.0), "y": turn("y", 2.0, off=1)}, seconds=1.0)


def test_a_ratio_is_of_rounds_not_of_means():
    found = harness.ratio([2.0, 20.0, 2.0, 2.0], [1.0, 10.0, 1.0, 1.0])
    assert found == {"median": 2.0, "ci95": [2.0, 2.0], "rounds": 4}
    low, high = harness.ratio([1.0, 2.0, 3.0, 4.0, 5.0], [1.0] * 5)["ci95"]
    assert low < 3.0 < high


def test_every_case_is_a_recipe_whose_networks_take_its_size():
    for case in cases.CASES.values():
        model = checked(Case(**{**vars(case), "width": 2, "judge": 2}))
        side = case.window or case.size
        assert model.method(Geometry(2, (side, side), {"a": 1, "b": 1})).paired == case.paired


@pytest.mark.slow
def test_a_volume_is_translated_by_the_loop_by_gantk_and_by_onnx_in_turns(monkeypatch, tmp_path, capsys):
    pytest.importorskip("onnxruntime")
    import translate_speed

    small = {"name": "unet", "width": 4, "depth": 3}
    monkeypatch.setitem(translate_speed.CASES, "unet at 96 x 96", (small, [32, 32], "pad"))
    voxels = np.random.default_rng(0).random((30, 32, 2)).astype(np.float32)
    nib.save(nib.Nifti1Image(voxels, np.eye(4)), tmp_path / "scan.nii.gz")
    alone = SimpleNamespace(
        run=lambda *words, **options: SimpleNamespace(stdout="0.5")
    )  # its memory is not of interest
    monkeypatch.setattr(translate_speed, "subprocess", alone)
    words = ["--case", "unet at 96 x 96", "--rounds", "2", "--json", str(tmp_path / "x.json")]
    translate_speed.main([str(tmp_path / "scan.nii.gz"), *words])
    (row,) = json.loads((tmp_path / "x.json").read_text("utf-8"))["rows"]
    assert {way: len(each) for way, each in row["seconds"].items()} == dict.fromkeys(("plain", "gantk", "onnx"), 2)
    assert row["times"].keys() == {"gantk", "onnx"} and "plain : onnx" in capsys.readouterr().out
