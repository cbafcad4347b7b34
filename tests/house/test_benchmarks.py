"""benchmarks/: other toolkits in fair turns on the same batches, the GPU suite tried out on the
CPU, honest rows.
"""

import json
import sys
from concurrent.futures import ThreadPoolExecutor

import nibabel as nib
import numpy as np
import pytest
import torch
from tiny import ROOT

sys.path.insert(0, str(ROOT / "benchmarks"))

from peers.sides import BatchTurn, Side  # noqa: E402

from gantk.errors import GantkError  # noqa: E402
from gantk_bench import harness  # noqa: E402

pytestmark = pytest.mark.bench
CPU = torch.device("cpu")


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
