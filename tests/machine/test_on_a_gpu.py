"""A training on a GPU: its losses are those of a CPU, its resume is exact, and two share a card.

Skipped where there is no CUDA device.
"""

import json
import shutil
import sys
from pathlib import Path

import pytest
import torch
from several import begun, finish, recipe_file
from tiny import PATCHGAN, TINY, UNET, weights_of

import gantk

CARD = "cuda"
pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
STEPS = 12

# recorded steps and steps run operator by operator; bf16 and float32
WAYS = {
    "graph-bf16": {"fast": {"cuda_graph": True}, "precision": "bf16"},
    "graph-fp32": {"fast": {"cuda_graph": True}, "precision": "fp32"},
    "plain-fp32": {"fast": {"cuda_graph": False}, "precision": "fp32"},
}


def recipe(**train) -> dict:
    """A CycleGAN without random numbers in its steps, as a CPU's and a GPU's differ."""
    method = {"name": "cyclegan", "generator": UNET, "discriminator": PATCHGAN, "pool": 0}
    data = TINY["data"] | {"augment": []}
    lengths = {"steps": STEPS, "save_every": STEPS // 2, "sample_every": STEPS}
    return TINY | {"method": method, "data": data, "train": TINY["train"] | lengths | train}


def train(tables: dict, out: Path, device: str) -> Path:
    return gantk.run(tables, out=out, device=device, say=lambda line: None).path


def losses_of(run: Path) -> list[dict[str, float]]:
    lines = (run / "log.jsonl").read_text("utf-8").splitlines()
    return [line["losses"] for line in map(json.loads, lines) if "losses" in line]


@pytest.mark.parametrize("way", ["graph-fp32", "plain-fp32"])
def test_ten_steps_have_the_losses_of_a_cpu(way, tmp_path):
    tables = recipe(**WAYS[way])
    on_cpu = losses_of(train(tables, tmp_path / "cpu", "cpu"))
    on_card = losses_of(train(tables, tmp_path / "card", CARD))

    assert len(on_cpu) == len(on_card) == STEPS
    for number, (there, here) in enumerate(zip(on_cpu, on_card, strict=True), 1):
        assert here == pytest.approx(there, rel=1e-3, abs=1e-5), f"step {number}"


@pytest.mark.parametrize("way", list(WAYS))
def test_a_resume_ends_at_the_same_weights(way, tmp_path, monkeypatch):
    # kernels that add in a fixed order; cuDNN's fastest do not
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)
    whole = train(recipe(**WAYS[way]), tmp_path / "whole", CARD)
    stopped = Path(shutil.copytree(whole, tmp_path / "stopped"))
    shutil.rmtree(stopped / "checkpoints" / f"step-{STEPS:06d}")
    (stopped / "metrics.json").unlink()

    gantk.resume(stopped, device=CARD, say=lambda line: None)

    wanted, found = weights_of(whole, STEPS), weights_of(stopped, STEPS)
    assert wanted.keys() == found.keys()
    apart = [name for name in wanted if not torch.equal(found[name], wanted[name])]
    assert apart == []
    assert losses_of(stopped) == losses_of(whole)


def test_two_trainings_share_a_card(tmp_path):
    tables = str(recipe_file(recipe(precision="bf16"), tmp_path))
    command = [sys.executable, "-m", "gantk", "run", tables, "--device", CARD, "--out"]
    ends = finish([begun([*command, str(tmp_path / name)]) for name in ("one", "two")])

    assert [code for code, _, _ in ends] == [0, 0], ends
    one, two = (losses_of(tmp_path / name) for name in ("one", "two"))
    for here, there in zip(one, two, strict=True):
        assert here == pytest.approx(there, rel=0.05, abs=1e-3)
