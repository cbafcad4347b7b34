"""A run folder that somebody else prepared: nothing is read, written or removed outside of it, and
pipes and devices in it are neither waited for nor written to.
"""

import os
import shutil
import stat
from contextlib import suppress

import numpy as np
import pytest
from PIL import Image

import gantk
from gantk import files
from gantk.errors import UserError
from gantk.report.build import write_report
from gantk.runs import checkpoint, trained
from gantk.runs.folder import RunFolder
from gantk.runs.schemas import LogLine, read_results


@pytest.fixture
def outside(tmp_path):
    """A folder beside the run with files that a run might write, read or remove."""
    folder = tmp_path / "outside"
    for step in (1, 2, 3):
        (folder / f"step-{step:06d}").mkdir(parents=True)
        (folder / f"step-{step:06d}/meta.json").write_text("{}")
    (folder / ".step-000009.tmp").mkdir()
    for name in ("metrics.json", "log.jsonl", "split.json", "card.md"):
        (folder / name).write_text('{"secret": 1}')
    return folder


def listing(folder):
    return {path: path.is_file() and path.read_bytes() for path in folder.rglob("*")}


def link(path, target):
    """A link in the place of a file or a folder."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
    path.symlink_to(target)


WRITES = {
    "a checkpoint": (
        "checkpoints",
        lambda run: checkpoint.save(run.checkpoints, 9, {}, None, {"method": "x"}),
    ),
    "old checkpoints": (
        "checkpoints",
        lambda run: checkpoint.prune(run.checkpoints, 1, (), lambda step: True),
    ),
    "a sample": (
        "samples",
        lambda run: run.write_picture("truth", "a_to_b-0", np.zeros((1, 4, 4)), 0, 1),
    ),
    "a sample of a group": (
        "samples/truth",
        lambda run: run.write_picture("truth", "a_to_b-0", np.zeros((1, 4, 4)), 0, 1),
    ),
    "the list of samples": ("samples", lambda run: run.write_json("samples/index.json", {})),
    "a line of the log": ("log.jsonl", lambda run: run.add_to_log(LogLine(step=5))),
}

PIPED = ["log.jsonl", "metrics.json", "best.json", "usage.json", "scores.csv", "split.json"]
PIPED += [
    "samples/index.json",
    "samples/test/index.json",
    "report.html",
    "environment.json",
    "recipe.toml",
]


@pytest.mark.parametrize("target", ["pipe", "/dev/zero"])
@pytest.mark.parametrize("name", PIPED)
def test_a_pipe_or_a_device_is_not_waited_for(name, target, copied_run):
    (copied_run / name).unlink()
    if target == "pipe":
        os.mkfifo(copied_run / name)
    else:
        (copied_run / name).symlink_to(target)

    write_report(copied_run)

    page = (copied_run / "report.html").read_text()
    told = "is a pipe or a device" if target == "pipe" else "leads out of the folder"
    assert told in page.replace("&#39;", "'") or name in ("report.html", "usage.json")
    with suppress(UserError):
        RunFolder(copied_run).read_log()
        RunFolder(copied_run).inference_checkpoint()


def test_a_checkpoint_is_not_read_from_outside(copied_run, tmp_path):
    saved = copied_run / "checkpoints/step-000004"
    for name in ("weights.safetensors", "meta.json"):
        shutil.move(saved / name, tmp_path / name)
        (saved / name).symlink_to(tmp_path / name)

        load = checkpoint.load_meta if name == "meta.json" else checkpoint.load_weights
        with pytest.raises(UserError, match="leads out of the folder"):
            load(saved)

        (saved / name).unlink()
        os.mkfifo(saved / name)
        with pytest.raises(UserError, match="is a pipe"):
            load(saved)

        (saved / name).unlink()
        shutil.move(tmp_path / name, saved / name)


def test_a_link_inside_the_run_is_followed(copied_run):
    shutil.move(copied_run / "metrics.json", copied_run / "scores.json")
    (copied_run / "metrics.json").symlink_to("scores.json")

    assert read_results(copied_run).metrics


def test_files_that_are_too_large_are_not_read(tmp_path):
    with open(tmp_path / "large.json", "wb") as file:
        file.truncate(2**40)  # of holes

    with pytest.raises(UserError, match="larger than"):
        files.read_file(tmp_path / "large.json")


def test_a_device_is_written_only_where_the_user_named_it(tmp_path, capfd):
    os.mkfifo(tmp_path / "pipe")
    reading = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)

    files.write_output(tmp_path / "pipe", b"to the pipe")
    assert os.read(reading, 100) == b"to the pipe"

    files.write_file(tmp_path / "pipe", b"a file")
    assert (tmp_path / "pipe").read_bytes() == b"a file"
    os.close(reading)

    files.write_output(tmp_path / "new.json", b"new")
    assert (tmp_path / "new.json").read_bytes() == b"new"
    with pytest.raises(UserError, match="not a file"):
        (tmp_path / "log.jsonl").symlink_to("/dev/null")
        files.append_to_file(tmp_path / "log.jsonl", b"line")


@pytest.mark.slow
def test_others_cannot_write_and_patients_are_private(tmp_path, tiny_recipe):
    before = os.umask(0)
    try:
        run = gantk.run(tiny_recipe, out=tmp_path / "run", device="cpu", say=lambda line: None)
        study = gantk.new_study(run, pairs=2, device="cpu", say=lambda line: None)
        gantk.pack(run, tmp_path / "packed", say=lambda line: None)
    finally:
        os.umask(before)

    paths = [path for path in tmp_path.rglob("*") if not path.is_symlink()]
    open_to_others = [path for path in paths if stat.S_IMODE(path.stat().st_mode) & 0o022]
    assert not open_to_others
    private = ["report.html", "scores.csv", "split.json", "samples/index.json", "samples/test"]
    for path in [
        *(run.path / name for name in private),
        study,
        study / "key.csv",
        study / "page.html",
    ]:
        assert not stat.S_IMODE(path.stat().st_mode) & 0o077, path
    assert stat.S_IMODE((run.path / "metrics.json").stat().st_mode) == 0o644


def test_a_picture_is_only_for_this_user(copied_run):
    run = RunFolder(copied_run)
    run.write_picture("truth", "new-0", np.zeros((1, 4, 4)), 0, 1)

    assert stat.S_IMODE((copied_run / "samples/truth/new-0.png").stat().st_mode) == 0o600


@pytest.fixture
def with_size(copied_run, tmp_path):
    """`with_size(sides)`: a packed model with another data.size in its recipe."""

    def make(size: list[int]):
        packed = gantk.pack(copied_run, tmp_path / "packed", say=lambda line: None)
        path = packed / "recipe.toml"
        text = path.read_text()
        small = "size = [\n    32,\n    32,\n]"
        assert small in text
        path.write_text(text.replace(small, f"size = {size}"))
        return packed

    return make


def test_a_recipe_of_images_beyond_the_memory_is_refused(with_size, monkeypatch):
    monkeypatch.setattr(trained, "free_memory", lambda device: 0.5)
    with pytest.raises(UserError, match=r"needs at least [\d,.]+ GiB, but only 0.5 GiB"):
        gantk.load(with_size([16384, 12288]), device="cpu")


@pytest.mark.parametrize("size", [[4096, 2048], [512, 16384]])
def test_a_small_image_is_not_enlarged_without_limit(with_size, tmp_path, monkeypatch, size):
    monkeypatch.setattr(trained, "free_memory", lambda device: 1e6)
    Image.new("L", (40, 30)).save(tmp_path / "small.png")
    wanted = f"enlarge an image of 30 x 40 to {size[0]} x {size[1]}"
    with pytest.raises(UserError, match=wanted):
        gantk.translate(with_size(size), tmp_path / "small.png", tmp_path / "out.png", device="cpu")


def test_networks_that_the_weights_do_not_fill_are_not_built(copied_run, monkeypatch):
    def build(*arguments):
        raise AssertionError("it is built before it is compared")

    path = copied_run / "recipe.toml"
    path.write_text(path.read_text().replace("width = 4", "width = 512"))
    monkeypatch.setattr(trained, "build_method", build)
    with pytest.raises(UserError, match="belongs to another method or network"):
        gantk.load(copied_run, device="cpu")


@pytest.mark.parametrize("what", WRITES)
def test_nothing_is_written_through_a_link(what, copied_run, outside):
    name, write = WRITES[what]
    link(copied_run / name, outside / "log.jsonl" if name == "log.jsonl" else outside)
    before = listing(outside)

    with pytest.raises(UserError, match="is a link"):
        write(RunFolder(copied_run))

    assert listing(outside) == before


@pytest.mark.parametrize("name", ["checkpoints", "samples", "study"])
@pytest.mark.parametrize("command", ["resume", "study"])
def test_commands_change_nothing_behind_a_link(name, command, copied_run, outside, gantk):
    shutil.rmtree(copied_run / "checkpoints/step-000004")  # two steps are left to train
    link(copied_run / name, outside)
    before = listing(outside)
    words = {
        "resume": ["resume", copied_run, "--device", "cpu"],
        "study": ["study", "new", copied_run, "--pairs", "2", "--device", "cpu"],
    }

    outcome = gantk(*words[command])

    if name == "checkpoints" or (command, name) in (("resume", "samples"), ("study", "study")):
        assert outcome.code == 2
        told = ("leads out of the folder", "cannot be read", "add --overwrite")
        assert any(words in outcome.err for words in told), outcome.err
    assert listing(outside) == before
