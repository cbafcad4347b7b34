"""What a training costs, tried before it and used in all its sittings (time, memory), and
its learning rate.
"""

import json
import re
import subprocess
import sys
import time

import pytest
from tiny import PATCHGAN, TINY, UNET, small_run

import gantk
from gantk.data.batches import ImageSet
from gantk.errors import UserError
from gantk.machine import usage
from gantk.machine.usage import Used, speed_of
from gantk.metrics.evaluate import Scorer
from gantk.recipe.load import load_recipe, resolved
from gantk.runs.folder import RunFolder
from gantk.training import trial
from gantk.training.trial import Trial


def test_time_counts_from_the_start_of_the_process():
    code = (
        "import time; t = time.monotonic(); n = sum(range(5_000_000)); from gantk.machine import"
        " usage; "
    )
    code += "print(usage.since_start(), time.monotonic() - usage.IMPORTED, time.monotonic() - t)"
    began = time.monotonic()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    since, imported, before = map(float, done.stdout.split())

    assert imported < before <= since + 0.02  # the kernel counts in hundredths
    assert since <= time.monotonic() - began + 0.02


def test_peak_memory_sees_what_was_held_once():
    code = (
        "from gantk.machine import usage; before = usage.peak_memory('cpu'); held = b'x' * (60 <<"
        " 20); del held; "
    )
    code += "print(usage.peak_memory('cpu') - before)"
    # a child of a shell: one of ours would begin with our own peak
    command = f'"{sys.executable}" -c "{code}" && true'
    done = subprocess.run(command, shell=True, capture_output=True, text=True, check=True)

    assert float(done.stdout) >= 0.04


def test_a_resumed_training_counts_what_earlier_sittings_used():
    used = Used({}, "cpu")
    assert used.first_step is None
    assert used.seconds_at(0, 7.0) == 7.0

    used.first_step = usage.since_start()
    first = used.state(10, 2.5)

    assert first["first_step_s"] > 0

    again = Used(first | {"peak_memory_gib": 1000.0}, "cpu")
    assert again.first_step == first["first_step_s"]
    assert again.seconds_at(10, 2.0) == 2.5, (
        "steps after the last log line before the save took time too"
    )
    assert again.seconds_at(8, 2.0) == 2.0, "the file is of another checkpoint"
    assert again.state(20, 5.0)["peak_memory_gib"] == 1000.0


def test_the_images_of_a_training_are_let_go_of_before_scores(tmp_path, monkeypatch):
    events = []
    free = ImageSet.free_memory
    score = Scorer.test
    monkeypatch.setattr(ImageSet, "free_memory", lambda self: events.append("freed") or free(self))
    monkeypatch.setattr(
        Scorer, "test", lambda self, others=(): events.append("scored") or score(self, others)
    )

    method = {"name": "pix2pix", "generator": UNET, "discriminator": PATCHGAN}
    small_run(tmp_path, method, steps=1)

    assert events == ["freed", "freed", "scored"]


def test_speed_holds_the_mean_step_of_each_interval():
    log = [
        {"step": 0, "validation": {}},
        {"step": 10, "seconds": 4.0, "images_per_s": 10.0},
        {"step": 10, "selection": {"score": 1.0}},
        {"step": 30, "seconds": 8.0, "images_per_s": 20.0},
    ]
    speed = speed_of(log, {"first_step_s": 3.5, "peak_memory_gib": 1.5, "seconds": 9.5})

    assert speed["images_per_s"] == 15
    assert speed["seconds"] == 8
    assert speed["steps"] == 30
    assert speed["step_seconds"] == [0.4, 0.2]
    assert speed_of([]) == {}
    assert speed_of(log)["first_step_s"] is None


def test_runs_record_their_usage_and_what_is_unknown(copied_run, capsys):
    folder = RunFolder(copied_run)
    used = folder.usage()
    logged = [line["seconds"] for line in folder.read_log() if "seconds" in line]

    assert used["step"] == 4
    assert used["seconds"] == pytest.approx(logged[-1], abs=0.001)
    assert used["first_step_s"] > 0
    (copied_run / "usage.json").write_text("{half")
    assert folder.usage() == {}
    assert "usage.json could not be read" in capsys.readouterr().err

    lines = (copied_run / "log.jsonl").read_text().splitlines(keepends=True)
    damaged = ['{"step": -1}', '{"step": 2, "losses": {"g/x": "y"}}', "[" * 10**5, "x" * 3 * 2**20]
    (copied_run / "log.jsonl").write_text(
        "".join([lines[0], *(f"{each}\n" for each in damaged), *lines[1:], '{"st'])
    )

    assert len(folder.read_log()) == len(lines)
    assert "lines of log.jsonl cannot be read and will be ignored" in (
        said := capsys.readouterr().err
    )
    assert "line 2: step: " in said


def test_a_trial_takes_real_steps_and_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (shadow := tmp_path / "random.py").write_text(
        "raise RuntimeError('a file of the working folder is imported')"
    )
    found = gantk.predict(TINY, device="cpu")
    shadow.unlink()

    assert found.fits
    assert 0.1 < found.peak_gib < found.available_gib
    assert not found.ways
    assert found.step_s > 0
    assert found.hours == pytest.approx(4 * found.step_s / 3600)

    with pytest.raises(UserError, match="size"):
        gantk.predict(TINY, set=["data.size=[30, 30]"], device="cpu")

    with pytest.raises(UserError, match="needs 3 steps before"):
        gantk.run(TINY, profile_steps=2, device="cpu", out=tmp_path / "short", say=print)

    assert not list(tmp_path.iterdir())


def test_what_does_not_fit_is_tried_with_less(monkeypatch):
    asked = []

    def child(recipe, settings, device, memory, say, warn=False):
        asked.append(settings)
        fits = any("microbatch" in each for each in settings)
        return Trial(fits, "cpu", memory, 1.0, 0.1, 0.2, 20.0, settings)

    monkeypatch.setattr(trial, "_in_child", child)
    found = gantk.predict(TINY, device="cpu", memory=0.5)

    assert not found.fits
    assert found.ways[-1].fits
    assert asked[0] == ()
    assert any("train.microbatch=1" in each for each in found.ways[-1].settings)
    assert "does not fit" in next(found.lines())


def test_running_out_of_memory_ends_the_trial_alone():
    found = trial._in_child(
        load_recipe(TINY).override(["data.size=[256, 256]", "train.batch=64"]), (), "cpu", 0.6
    )
    assert not found.fits


def test_a_trial_ends_with_the_process_that_started_it():
    """Its standard input closes when that process ends, also if it is killed."""
    tables = resolved(load_recipe(TINY).override(["train.steps=1000000"]).check())
    with subprocess.Popen(
        [sys.executable, "-P", "-m", "gantk.training.trial"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as child:
        child.stdin.write(json.dumps({"tables": tables, "device": "cpu", "memory": None}) + "\n")
        child.stdin.close()
        lines = child.stdout.read()

        assert child.wait(60) == 1
        assert '"fits"' not in lines


def test_a_trial_says_what_it_does_before_it_is_done():
    said = []
    gantk.predict(TINY, device="cpu", say=said.append)

    assert said[0].startswith("trial    3 steps")
    assert "reading the images" in said[1]
    assert re.search("stage 'main', .*step 1 of 3", said[2])


def test_a_long_step_of_a_trial_is_said_again(monkeypatch, capsys):
    monkeypatch.setattr(trial, "REMINDER_S", 0.0)
    progress = trial.Progress()
    progress.say("reading the images")
    turns = iter([False, False, True])
    monkeypatch.setattr(progress.ended, "wait", lambda seconds: next(turns))
    progress.remind()
    lines = capsys.readouterr().out.splitlines()

    assert lines[0] == "progress reading the images"
    assert lines[1:] == ["progress reading the images: 0 s so far"] * 2


@pytest.mark.parametrize("device", ["cuda:99", "meta", "xpu", "hpu", "vulkan"])
def test_a_trial_on_a_missing_device_is_one_error(device):
    with pytest.raises(UserError, match="--device") as refused:
        gantk.predict(TINY, device=device)

    assert "--device cpu" in str(refused.value) or "Allowed" in str(refused.value)


# ---- the range test of learning rates
