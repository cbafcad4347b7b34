"""Bad input beyond what tests/promises holds, a full disk, no memory, no streams: one message, and nothing is lost."""

import copy
import errno
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import tomli_w
from PIL import Image
from tiny import TINY, draw_pictures

import gantk as api
from gantk.errors import GantkError, UserError, counted, did_you_mean, machine_failure
from gantk.machine.restart import advice
from gantk.runs.folder import Run

Args = list[str]
PIX2PIX = {"name": "pix2pix", "generator": {"name": "unet", "width": 4, "depth": 2}, "discriminator": "patchgan"}
DCGAN = {"name": "dcgan", "width": 4, "discriminator": {"name": "dcgan", "width": 4, "depth": 3}}
PROGAN = {"name": "progan", "width": 8, "latent": 8}
T1 = {"domains": ["T1"]}
VOLUMES = ["--set", "data.dims=3", "--set", "data.size=[16, 16, 16]", "--set", "data.neighbours=1"]
STYLIZE = ["stylize", "content/slice-00.png", "style.png", "out.png", "--weights", "random"]


def train(*options: str, method: dict | None = None, **tables: dict) -> Callable[[], Args]:
    """`gantk run` of the tiny recipe with other keys, or with another method."""

    def args() -> Args:
        recipe = copy.deepcopy(TINY)
        if method and "name" in method:
            recipe["method"] = method
            del recipe["evaluate"]["metrics"]
        else:
            recipe["method"] |= method or {}
        for name, values in tables.items():
            recipe[name] |= values
        Path("tiny.toml").write_text(tomli_w.dumps(recipe), "utf-8")
        return ["run", "tiny.toml", "--out", "new", "--device", "cpu", *options]

    return args


def unpaired() -> Args:
    for seed, name in enumerate(("trainA", "trainB"), 1):
        for path in draw_pictures(Path("data") / name, 16, seed=seed):
            path.rename(path.with_name(f"{name}-{path.name}"))
    return train("--data", "data", method=PIX2PIX)()


def one_folder() -> Args:
    draw_pictures(Path("data/slices"), 8)
    return train("--data", "data/slices")()


def style(mode: str | None) -> Args:
    (content,) = draw_pictures(Path("content"), 1)
    if mode:
        Image.open(content).convert(mode).save("style.png")
    return STYLIZE


def changed(**method) -> Args:
    """`gantk resume` of a run whose recipe names another network or another method than its checkpoint."""
    Path("run/recipe.toml").write_text(tomli_w.dumps(TINY | {"method": TINY["method"] | method}))
    return ["resume", "run"]


def without_checkpoints() -> Args:
    shutil.rmtree("run/checkpoints")
    return ["resume", "run"]


def newer_checkpoint() -> Args:
    path = max(Path("run/checkpoints").glob("step-*")) / "meta.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format": 99, "sha256": {}}))
    return ["resume", "run"]


CASES: dict[str, tuple[Callable[[], Args], str]] = {
    "unknown phase": (
        train(train={"optimizers": {"generator": {"name": "adam"}}}), "no phase 'generator'. Allowed: generators, disc"
    ),
    "half size": (train(method={"low_res_warmup": 0.5}, data={"size": [40, 40]}), "depth 3 cannot take .*20 x 20"),
    "no patch": (train("--set", "method.discriminator.receptive_field=142"), r"PatchGAN .*data\.size = \[48, 48\]"),
    "patch": (train("--set", "data.patch=[64, 64]"), r"data\.patch: .*--set data\.patch"),
    "neighbours": (train(*VOLUMES), r"data\.neighbours: it should be 0, because data\.dims is 3"),
    "one folder": (one_folder, "holds one domain, and data.domains names 2"),
    "unpaired": (unpaired, "learns from registered pairs, and the source knows none among 16 images of A and 16"),
    "no masks": (train(method=PIX2PIX, data={"mask": True}), "no image of the source has a lesion mask"),
    "lesion without masks": (train(method=PIX2PIX | {"lesion": 4.0}), r"Set data\.mask = true, or method\.lesion"),
    "ProGAN's size": (train(method=PROGAN, data=T1 | {"size": [48, 48]}), "48 x 48 cannot be grown by doubling"),
    "DCGAN's size": (train(method=DCGAN, data=T1 | {"size": [50, 50]}), "50 x 50.*a multiple of 4"),
    "no labels": (train(method=DCGAN | {"conditional": True}, data=T1), r"Set data\.labels = true"),
    "pairs of noise": (
        train("--set", 'evaluate.metrics=["psnr"]', method=DCGAN, data=T1), "'psnr' compares an output with its truth"
    ),
    "style weights": (train(method={"name": "style"}), "vgg19.* not on this machine and cannot be fetched"),
    "style in colour": (lambda: style("RGB"), r"'style\.png' is in colour\. Add --gray"),
    "no style": (lambda: style(None), r"'style\.png' does not exist"),
    "no checkpoint": (without_checkpoints, "the run has no checkpoint: .* Start it again: gantk run run"),
    "other method": (lambda: changed(name="cyclegan"), "of the method 'dualgan', the recipe's is 'cyclegan'"),
    "other network": (
        lambda: changed(generator={"name": "unet", "width": 6, "depth": 3}),
        r"another method or network: 'g_ab.* is float32 \[8, 16, 3, 3\] there and float32 \[12",
    ),
    "newer checkpoint": (newer_checkpoint, "format 99, and this gantk reads up to 1. Upgrade gantk"),
    "recipe there": (
        lambda: [Path("dualgan_t1t2.toml").touch(), "recipes", "copy", "dualgan_t1t2"][1:], "exists already"
    ),
}  # fmt: skip


def files(folder: Path) -> dict[Path, bytes | bool]:
    """What is in a folder, but who last wrote into a run."""
    every = (path for path in folder.rglob("*") if path.name != ".lock")
    return {path: path.is_file() and path.read_bytes() for path in every}


@pytest.mark.parametrize("name", CASES)
def test_bad_input_is_one_message_and_nothing_is_written(name, gantk, copied_run, monkeypatch):
    here = copied_run.parent
    monkeypatch.chdir(here)
    monkeypatch.delenv("GANTK_WEIGHTS", raising=False)
    make, words = CASES[name]
    args = make()
    before = files(here)
    outcome = gantk(*args)
    text = outcome.err.strip()
    assert outcome.code == 2 and re.search(words, text), text
    assert text.startswith("error  ") and "\n" not in text and "Traceback" not in outcome.out
    assert re.search(r"Allowed: |Did you mean|should (be|have)|\. [`A-Z][^.]{7,}", text), "no remedy"
    assert files(here) == before


def test_places_nest_from_the_outside():
    error = UserError("it broke", allowed=["a", "b"], remedy="`gantk list` shows more.", where="width")
    assert str(error.at("r.toml:3")) == "it broke. Allowed: a, b. `gantk list` shows more.  (r.toml:3: width)"


@pytest.mark.parametrize(("name", "close"), [("UNET", "unet"), ("patch_gan", "patchgan"), ("zebra", None), ("", None)])
def test_the_nearest_spelling_is_found_and_nothing_far_away(name, close):
    assert did_you_mean(name, ["unet", "resnet", "patchgan"]) == (close and f"Did you mean '{close}'?")


def test_one_is_singular_and_words_have_their_plurals():
    said = [counted(count, "image") for count in (0, 1, 2, ["a"], "ab")]
    assert said == ["0 images", "1 image", "2 images", "1 image", "2 images"]
    plurals = {"copy": "copies", "class": "classes", "box": "boxes", "patch": "patches", "day": "days"}
    for noun, plural in (plurals | {"DICOM series": "DICOM series"}).items():
        assert counted(2, noun) == f"2 {plural}"


# ---- what the machine refuses


FULL = Path("/dev/full")
COMMAND = [sys.executable, "-m", "gantk"]


def full(*args, **kwargs):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/there/x")


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (OSError(errno.ENOSPC, "", "/a/b"), "'/a/b': No space left on device. Free some space"),
        (OSError(errno.EROFS, "", b"/a/\x1b[31m"), r"'/a/\x1b[31m': Read-only file system. Write to a folder"),
        (OSError(errno.EFBIG, ""), "File too large. A limit of the system (ulimit -f)"),
        (MemoryError(), "memory ended."),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), "memory ended."),
        (RuntimeError("shapes differ"), None),
        (OSError("of a library"), None),
    ],
)
def test_what_the_machine_refused_is_told_with_a_remedy(error, says):
    found = machine_failure(error)
    assert found is None if says is None else found.startswith(says)


@pytest.mark.skipif(not FULL.is_char_device(), reason="the system has no /dev/full")
@pytest.mark.parametrize("words", [("list",), ("--version",), ("eval", "--help"), ("recipes",)])
def test_lines_that_cannot_be_written_are_one_error(words):
    with FULL.open("wb") as disk:
        done = subprocess.run([*COMMAND, *words], stdout=disk, stderr=subprocess.PIPE, text=True)
    assert (done.returncode, done.stderr) == (1, f"error  {machine_failure(OSError(errno.ENOSPC, ''))}\n")


@pytest.mark.slow
def test_a_picture_is_translated_without_any_standard_stream(tiny_run, tmp_path):
    (picture,) = draw_pictures(tmp_path, 1)
    words = ["translate", tiny_run, picture, tmp_path / "made.png"]
    code = "import os, sys; [os.close(n) for n in (0, 1, 2)]; os.execv(sys.executable, sys.argv[1:])"
    assert subprocess.run([sys.executable, "-c", code, *COMMAND, *words]).returncode == 0
    assert (tmp_path / "made.png").stat().st_size > 100


@pytest.mark.parametrize("name", ["my run", "-run", "it's [1]"])
def test_an_advised_command_names_the_run_folder_when_it_is_pasted(copied_run, monkeypatch, name):
    monkeypatch.chdir(copied_run.parent)
    run = Run(copied_run.rename(name).relative_to("."))
    for said in (str(run.occupied()).removesuffix(".  (--out)"), advice(run.path, 1).removesuffix(".")):
        command, action, path = shlex.split(said[said.index("gantk ") :])
        assert (command, action) == ("gantk", "resume") and path[0] != "-" and Path(path).samefile(run)


def test_scores_that_cannot_be_kept_are_shown_and_returned(copied_run, monkeypatch):
    before, lines = (copied_run / "metrics.json").read_bytes(), []
    monkeypatch.setattr(Run, "write_json", full)
    found = api.evaluate(copied_run, device="cpu", say=lines.append)
    assert found["metrics"]["a_to_b"]["psnr"]["value"] > 0
    assert any(line.startswith("score") for line in lines)
    assert "does not keep these scores. '/there/x': No space left" in lines[-1]
    assert (copied_run / "metrics.json").read_bytes() == before


def test_a_training_that_finds_the_disk_full_says_what_is_saved_and_goes_on_from_there(
    tiny_recipe, tiny_run, tmp_path, monkeypatch
):
    write, out = Run.add_to_log, tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(Run, "add_to_log", lambda run, line: full() if line["step"] > 2 else write(run, line))
        patch.setattr("gantk.report.write_report", full)  # a second failure hides the first one of none
        with pytest.raises(GantkError, match=f"No space left.*up to step 2 is saved. Go on with: gantk resume {out}"):
            api.run(tiny_recipe, out=out, device="cpu", say=lambda line: None)
    api.resume(out, device="cpu", say=lambda line: None)
    assert Run(out).metrics == Run(tiny_run).metrics


def test_memory_that_ends_while_a_library_is_loaded_is_one_message():
    code = "import click; from gantk.cli import Commands\n@click.command()\ndef load(): raise ImportError("
    code += "'libx.so: failed to map segment from shared object')\nCommands(commands={'load': load}).main(['load'])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (1, f"error  {machine_failure(MemoryError())}\n")


def test_output_that_cannot_be_written_does_not_take_the_place_of_a_stop():
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
    buffered = os.environ | {"PYTHONUNBUFFERED": ""}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, env=buffered)
    assert (done.returncode, "all was saved" in done.stderr, "error" in done.stderr) == (130, True, False)
