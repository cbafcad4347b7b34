"""A training that is killed, stopped or half written goes on with `gantk resume`, to the very same
weights.
"""

import os
import shutil
import signal
from pathlib import Path

import files
import pytest
from files import NOISE, TINY, ended, gantk, log_of, process, saved, wait_until
from safetensors.numpy import load_file

STEPS = 40
LENGTH = TINY["train"] | {"steps": STEPS, "save_every": 3, "keep": 2, "sample_every": 20, "seed": 3}
DROPOUT = {"name": "unet", "width": 4, "depth": 2, "dropout": 0.3}
WAYS = {
    # what remembers: an image pool, dropout, augmentation, a moving average, two stages, a schedule
    "cyclegan": {
        "method": TINY["method"]
        | {"name": "cyclegan", "pool": 3, "coarse": 0.4, "generator": DROPOUT},
        "train": LENGTH | {"schedule": "cosine"},
    },
    # networks that grow from 4 to 16 px, each size faded in
    "progan": {
        "method": {"name": "progan", "latent": 8, "base": 64, "width": 8},
        "data": NOISE["data"] | {"size": [16, 16], "augment": ["hflip"]},
        "train": LENGTH | {"optimizer": {"name": "adam", "betas": [0.0, 0.99]}},
        "evaluate": NOISE["evaluate"] | {"metrics": ["diversity"]},
    },
}


def recipe_of(way: str, folder: Path) -> Path:
    data = {}
    if way == "cyclegan":
        source = {"name": "folders", "path": str(files.two_domains(folder / "data", 9, 11))}
        data = {"source": source, "domains": ["A", "B"], "augment": ["hflip", "brightness"]}
        data["split"] = {"test": 0.0, "validation": 0.0}
    return files.recipe(folder / "tiny.toml", TINY | WAYS[way], data=data)


def timeless(run: Path) -> list[dict]:
    """The log without what a clock says."""
    return [
        {k: v for k, v in line.items() if k not in ("seconds", "images_per_s")}
        for line in log_of(run)
    ]


def assert_same_end(run: Path, whole: Path) -> None:
    """The last two saves and the log are those of the run that nobody disturbed."""
    assert saved(run) == saved(whole)
    assert saved(run)[-1] == f"step-{STEPS:06d}"
    for step in saved(whole):
        one, other = (each / "checkpoints" / step / "weights.safetensors" for each in (run, whole))
        assert one.read_bytes() == other.read_bytes()

    assert timeless(run) == timeless(whole)
    assert [line["step"] for line in log_of(run) if "losses" in line] == list(range(1, STEPS + 1))
    # nothing half written is left
    assert sorted(path.name for path in (run / "checkpoints").iterdir()) == saved(run)
    assert (run / "report.html").is_file()


@pytest.fixture(scope="module", params=list(WAYS))
def killed(request, tmp_path_factory) -> tuple[Path, Path]:
    """(a run killed in the middle, the same run left alone)."""
    folder = tmp_path_factory.mktemp(request.param)
    recipe = recipe_of(request.param, folder)
    run = ("run", recipe, "--device", "cpu", "--out")
    victim = process(*run, "killed", cwd=folder)
    wait_until(
        lambda: len(saved(folder / "killed")) >= 2 and len(log_of(folder / "killed")) > 10, victim
    )
    os.killpg(victim.pid, signal.SIGKILL)
    assert ended(victim).code == -signal.SIGKILL
    gantk(*run, "whole", cwd=folder).ok()
    assert saved(folder / "killed")[-1] < f"step-{STEPS:06d}"
    return folder / "killed", folder / "whole"


def half_written(run: Path) -> None:
    """What a kill inside the next save, and inside a line of the log, leaves."""
    last = run / "checkpoints" / saved(run)[-1]
    half = last.with_name(f".step-{int(last.name[5:]) + 3:06d}.tmp")
    half.mkdir(exist_ok=True)
    (half / "weights.safetensors").write_bytes((last / "weights.safetensors").read_bytes()[:999])
    with open(run / "log.jsonl", "a", encoding="utf-8") as file:
        file.write('{"step": 39, "losses": {"g/cyc')


@pytest.mark.quick_cases("cyclegan")
def test_a_killed_run_resumes_to_the_bit(killed, tmp_path):
    run = Path(shutil.copytree(killed[0], tmp_path / "run"))
    if killed[0].parent.name.startswith("cyclegan"):
        half_written(run)  # which is not in the way
    gantk("resume", run, "--device", "cpu").ok()

    assert_same_end(run, killed[1])


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_saves_says_how_to_go_on_and_exits_130(tmp_path, number):
    recipe = recipe_of("cyclegan", tmp_path)
    endless = ["--set", "train.steps=1000000", "--set", "train.save_every=1000000"]
    started = process("run", recipe, "--out", "run", "--device", "cpu", *endless, cwd=tmp_path)
    run = tmp_path / "run"
    wait_until(lambda: len(log_of(run)) > 4, started)
    started.send_signal(number)
    done = ended(started)

    assert done.code == 130
    assert "gantk resume run" in done.err
    assert "Traceback" not in done.out + done.err
    (kept,) = saved(run)
    assert log_of(run)[-1]["step"] <= int(kept[5:])
    assert load_file(run / "checkpoints" / kept / "weights.safetensors")

    if number == signal.SIGINT:
        again = process("resume", "run", "--device", "cpu", cwd=tmp_path)
        lines = len(log_of(run))
        wait_until(lambda: len(log_of(run)) > lines + 1, again)
        again.send_signal(number)
        assert ended(again).code == 130
        # it went on from the save
        assert len(saved(run)) == 2
        assert saved(run)[0] == kept
