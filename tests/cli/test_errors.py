"""Words of errors, a full disk, no memory, no streams: one message, and nothing is lost; bad input
is in promises/.
"""

import errno
import os
import stat
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from tiny import draw_pictures, python

import gantk as api
from gantk.errors import UserError, doing, machine_failure, one_line, unforeseen_message
from gantk.files import write_output
from gantk.formats.files import write
from gantk.formats.image import Image
from gantk.runs.folder import RunFolder


def test_what_fails_in_deletion_after_ctrl_c_prints_nothing(monkeypatch, capfd):
    from gantk.__main__ import interrupt

    class Commands:
        def invoke(self):
            interrupt(2, sys._getframe())

    class CutOff:
        def __del__(self):
            raise ValueError("cut off")

    monkeypatch.setattr(sys, "unraisablehook", sys.__unraisablehook__)  # restored afterwards
    Commands.invoke.__code__ = Commands.invoke.__code__.replace(co_qualname="Commands.invoke")
    with pytest.raises(KeyboardInterrupt):
        Commands().invoke()

    CutOff()
    assert capfd.readouterr().err == ""


class Textless(Exception):
    def __str__(self):
        raise ValueError("no text")


def test_any_error_has_one_line_without_a_traceback():
    text = "With tag (7FE0,0010) got exception: full\nTraceback (most recent call last):\n  File"

    assert one_line(OSError(text)) == "With tag (7FE0,0010) got exception: full"
    assert one_line(Textless()) == "Textless"
    assert machine_failure(Textless()) is None


def test_an_unforeseen_error_is_one_message_and_a_traceback(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    try:
        with doing("scoring 'run'"), doing("reading 'a.png'"):
            {}["x"]
    except KeyError as error:
        error.add_note("The plugin 'mine' raised it")
        text = unforeseen_message(error)

    (written,) = tmp_path.iterdir()
    assert text == (
        "KeyError, while reading 'a.png': 'x'. The plugin 'mine' raised it."
        f" The traceback is in {written}"
    )
    assert 'in test_an_unforeseen_error_is_one_message_and_a_traceback\n    {}["x"]' in (
        written.read_text("utf-8")
    )
    assert stat.S_IMODE(written.stat().st_mode) == 0o600


def test_an_unforeseen_error_without_text_or_disk_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "missing"))
    assert unforeseen_message(Textless()) == "Textless: Textless."


# ---- what the machine refuses


FULL = Path("/dev/full")
COMMAND = [sys.executable, "-m", "gantk"]


def full(*args, **kwargs):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/there/x")


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (OSError(errno.ENOSPC, "", "/a/b"), "'/a/b': No space left on device. Free disk space"),
        (
            OSError(errno.EROFS, "", b"/a/\x1b[31m"),
            r"'/a/\x1b[31m': Read-only file system. Write to a folder",
        ),
        (
            OSError(errno.EFBIG, ""),
            "File too large. Raise the system limit for the size of files (ulimit -f)",
        ),
        (MemoryError(), "the memory is full."),
        (
            RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"),
            "the memory is full.",
        ),
        (RuntimeError("shapes differ"), None),
        (OSError("of a library"), None),
    ],
)
def test_what_the_machine_refused_is_told_with_a_remedy(error, says):
    found = machine_failure(error)
    assert found is None if says is None else found.startswith(says)


# where nothing can be written -> what is said
UNWRITABLE = {
    "below a file": (
        "file/x.nii",
        "cannot be written: (Not a directory|File exists)|is a file, not a folder",
    ),
    "a folder": ("folder.nii", "cannot be written: Is a directory"),
    "a name that no disk holds": (f"{'x' * 300}.nii", "cannot be written: File name too long"),
}


@pytest.mark.parametrize("way", ["text", "image"])
@pytest.mark.parametrize("case", UNWRITABLE)
def test_what_cannot_be_written_is_one_error_and_leaves_nothing(case, way, tmp_path):
    name, says = UNWRITABLE[case]
    (tmp_path / "file").touch()
    (tmp_path / "folder.nii" / "inside").mkdir(parents=True)
    with pytest.raises(UserError, match=says):
        if way == "text":
            write_output(tmp_path / name, b"text")
        else:
            write(tmp_path / name, Image(np.zeros((1, 9, 8), np.float32)))

    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder.nii"]


@pytest.mark.skipif(not FULL.is_char_device(), reason="the system has no /dev/full")
@pytest.mark.parametrize("words", [("list",), ("--version",), ("eval", "--help"), ("recipes",)])
def test_lines_that_cannot_be_written_are_one_error(words):
    with FULL.open("wb") as disk:
        done = subprocess.run([*COMMAND, *words], stdout=disk, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 1
    assert done.stderr == f"error  {machine_failure(OSError(errno.ENOSPC, ''))}\n"


@pytest.mark.slow
def test_a_picture_is_translated_without_any_standard_stream(tiny_run, tmp_path):
    (picture,) = draw_pictures(tmp_path, 1)
    words = ["translate", tiny_run, picture, tmp_path / "made.png"]
    code = (
        "import os, sys; [os.close(n) for n in (0, 1, 2)]; os.execv(sys.executable, sys.argv[1:])"
    )

    python("-c", code, *COMMAND, *words).ok()
    assert (tmp_path / "made.png").stat().st_size > 100


def test_scores_that_cannot_be_kept_are_shown_and_returned(copied_run, monkeypatch):
    before = (copied_run / "metrics.json").read_bytes()
    lines = []
    monkeypatch.setattr(RunFolder, "write_json", full)
    found = api.evaluate(copied_run, device="cpu", say=lines.append)

    assert found["metrics"]["a_to_b"]["psnr"]["value"] > 0
    assert any(line.startswith("direction  score") for line in lines)
    told = "scores could not be written to the run folder. '/there/x': No space left"
    assert any(told in line for line in lines[-2:])
    assert (copied_run / "metrics.json").read_bytes() == before


def test_a_full_disk_keeps_the_last_checkpoint_of_a_training(
    tiny_recipe, tiny_run, tmp_path, monkeypatch
):
    write = RunFolder.add_to_log
    out = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(
            RunFolder,
            "add_to_log",
            lambda run, line: full() if line.step > 2 else write(run, line),
        )
        # a second failure hides the first one of none
        patch.setattr("gantk.report.build.write_report", full)
        with pytest.raises(OSError, match="No space left") as raised:
            api.run(tiny_recipe, out=out, device="cpu", say=lambda line: None)

    assert unforeseen_message(raised.value).endswith(
        f"The newest checkpoint is step 2. To continue, run: gantk resume {out}."
    )
    api.resume(out, device="cpu", say=lambda line: None)

    assert RunFolder(out).metrics == RunFolder(tiny_run).metrics


def test_a_stop_is_reported_without_a_working_output():
    code = """if True:
        import click, os
        from gantk.cli import Commands
        from gantk.errors import Interrupted
        @click.command()
        def stop():
            print("not written yet", end="")
            os.close(1)
            raise Interrupted("all was saved")
        Commands(commands={"stop": stop}).main(["stop"])"""
    done = python("-c", code, PYTHONUNBUFFERED="")

    assert done.code == 130
    assert "all was saved" in done.err
    assert "error" not in done.err
