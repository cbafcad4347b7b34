"""benchmarks/: other toolkits in fair turns on the same batches, the GPU suite tried out on the
CPU, honest rows.
"""

import json
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from tiny import ROOT

sys.path.insert(0, str(ROOT / "benchmarks"))

from peers import cases, run  # noqa: E402
from peers.cases import Case  # noqa: E402
from peers.sides import BatchTurn, Side  # noqa: E402

from gantk.errors import GantkError  # noqa: E402
from gantk_bench import harness  # noqa: E402

pytestmark = pytest.mark.bench
CPU = torch.device("cpu")
FILES = {  # a program with the reference's files and names, of one convolution a generator
    "options/train_options.py": (
        """
import argparse, sys
class TrainOptions:
    def parse(self):
        print("options of a chatty program")
        given = zip(sys.argv[1::2], sys.argv[2::2])
        return argparse.Namespace(**{name[2:]: int(value) if value.isdigit() else value for name, value in given})
"""
    ),
    "models/__init__.py": (
        """
import importlib
def create_model(opt):
    return importlib.import_module("models." + opt.model + "_model").Model(opt)
"""
    ),
    "models/cycle_gan_model.py": (
        """
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
"""
    ),
    "util/words.py": "GREETING = 'hello'",
}


def checkout(folder: Path, greeting: str = "hello", broken: str = "pass") -> Path:
    """The program in a folder."""
    empty = (
        "options/__init__",
        "options/base_options",
        "models/pix2pix_model",
        "util/__init__",
        "data/__init__",
    )
    for name, text in (FILES | {f"{name}.py": "" for name in empty}).items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text.replace("BROKEN", broken).replace("hello", greeting))

    return folder


def json_lines(file: Path) -> list[dict]:
    return [json.loads(line) for line in file.read_text("utf-8").splitlines()]


@pytest.fixture
def drive(monkeypatch, tmp_path, capsys):
    """The driver on one tiny case: `drive("--peer", ...)` gives (exit code, rows, printed,
    complained).
    """
    for name in list(cases.CASES):
        monkeypatch.delitem(cases.CASES, name)

    monkeypatch.setitem(cases.CASES, "tiny", Case("tiny", "cyclegan", "resnet6", 32, 2, 2, 2))
    monkeypatch.setattr("peers.packages.find_spec", lambda name: None)
    monkeypatch.setattr(harness, "MIN_SAMPLE_SECONDS", 0.01)
    file = tmp_path / "rows.jsonl"
    small = [
        "--set",
        "data.source.subjects=5",
        "--set",
        "data.source.slices=1",
        "--seconds",
        "0.01",
        "--device",
        "cpu",
    ]

    def call(*arguments: object):
        code = run.main([*map(str, arguments), *small, "--json", str(file)])
        return code, json_lines(file) if file.exists() else [], *capsys.readouterr()

    return call


def test_a_checkout_is_timed_beside_gantk_on_the_same_batches(drive, tmp_path):
    code, rows, out, _ = drive(
        "--peer", f"reference={checkout(tmp_path / 'theirs')}", "--cases", "tiny", "--table"
    )
    assert code == 0, rows
    assert [row["side"] for row in rows] == ["gantk", "gantk plain", "reference"]
    assert (
        len({row["batches"] for row in rows})
        == len({len(row["speed"]["step_seconds"]) for row in rows})
        == 1
    )
    assert [row["machine"]["precision"] for row in rows[1:]] == ["fp32", "fp32"]
    # default and plain are different recipes
    assert rows[0]["recipe_hash"] != rows[1]["recipe_hash"]

    theirs = rows[-1]
    ratio = rows[-1]["ratio"]["gantk"]

    assert (theirs["peer"], theirs["status"], theirs["weights"]) == ("reference", "ok", 2 * (9 + 1))
    assert ratio["ci95"][0] <= ratio["median"] <= ratio["ci95"][1]
    assert "options of a chatty program" not in out
    assert "| tiny | reference, fp32 | files " in out


@pytest.mark.parametrize(
    ("broken", "words"),
    [
        ('raise ValueError("no such luck")', "ValueError: no such luck  (cycle_gan_model.py:"),
        ('self.netG_A.weight.data.fill_(float("nan"))', "no longer finite"),
    ],
)
def test_a_peer_that_fails_is_a_row_that_says_why(drive, tmp_path, broken, words):
    code, rows, *_ = drive(
        "--peer", f"reference={checkout(tmp_path / 'theirs', broken=broken)}", "--cases", "tiny"
    )
    assert code == 1
    assert [row["status"] for row in rows] == ["failed"]
    assert words in rows[0]["error"]


def test_rounds_alternate_and_compare_equal_batches(monkeypatch):
    calls = []
    now = [0.0]
    monkeypatch.setattr(harness.time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(harness, "keep_memory", lambda keep: False)

    class Recorder(Side):
        def __init__(self, label: str, seconds: float):
            self.label = label
            self.seconds = seconds

        def step(self, batch):
            calls.append((self.label, int(batch["a"])))
            now[0] += self.seconds
            batch["a"].zero_()  # what a side does to its batch is nobody else's

    def turn(name: str, seconds: float, off: int = 0) -> BatchTurn:
        batches = lambda k: {"a": torch.tensor([k % 3 + off]), "b": torch.zeros(1)}  # noqa: E731
        return BatchTurn(Recorder(name, seconds), batches, CPU)

    turns = {"x": turn("x", 1.0), "y": turn("y", 2.0)}

    assert harness.take_turns(turns, seconds=12.0) == {"x": [1.0] * 4, "y": [2.0] * 4}
    assert "".join(name for name, _ in calls) == "xx" + "yy" + "xy" + "yx" + "xy" + "yx"
    seen = {name: [value for who, value in calls if who == name] for name in "xy"}
    assert seen["x"] == seen["y"] == [0, 1, 2, 0, 1, 2]
    assert turns["x"].digest == turns["y"].digest
    with pytest.raises(GantkError, match="different batches"):
        harness.take_turns({"x": turn("x", 1.0), "y": turn("y", 2.0, off=1)}, seconds=1.0)


@pytest.mark.slow
def test_volumes_are_timed_by_loop_gantk_and_onnx(monkeypatch, tmp_path, capsys):
    pytest.importorskip("onnxruntime")
    import translate_speed

    small = {"name": "unet", "width": 4, "depth": 3}
    monkeypatch.setitem(translate_speed.CASES, "unet at 96 x 96", (small, [32, 32], "pad"))
    voxels = np.random.default_rng(0).random((30, 32, 2)).astype(np.float32)
    nib.save(nib.Nifti1Image(voxels, np.eye(4)), tmp_path / "scan.nii.gz")
    monkeypatch.setattr(translate_speed, "Processes", lambda *_: ThreadPoolExecutor(1))
    words = ["--case", "unet at 96 x 96", "--rounds", "2", "--json", str(tmp_path / "x.json")]
    translate_speed.main([str(tmp_path / "scan.nii.gz"), *words])
    (row,) = json.loads((tmp_path / "x.json").read_text("utf-8"))["rows"]

    assert {way: len(each) for way, each in row["seconds"].items()} == dict.fromkeys(
        ("plain", "gantk", "onnx"), 2
    )
    assert row["times"].keys() == {"gantk", "onnx"}
    assert "plain : onnx" in capsys.readouterr().out
