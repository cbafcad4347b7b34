"""A file of each kind that cannot be read is one message, which names it and what it was read as,
and a package that is missing one that says how to install it: exit code 2, and nothing is written.
"""

import re
import shutil
import sys
from pathlib import Path

import files
import pytest

GARBAGE = b"\x00\xff\xfe[no file of this kind" * 40


def image(name: str):
    return name, ["eval", "--pred", name, "--truth", name, "--metrics", "mae"]


def of_recipe(name: str, key: str):
    command = ["run", "tiny.toml", "--out", "new", "--device", "cpu", "--set", f"{key}={name}"]
    return name, command


# file -> the command that reads it; RUN is a copy of a run
KINDS = {
    "NIfTI": image("x.nii.gz"),  # tests/formats has a table of broken images
    "picture": image("x.png"),
    "DICOM": image("x.dcm"),
    "recipe": ("x.toml", ["run", "x.toml", "--out", "new"]),
    "table of images": ("x.csv", ["run", "tiny.toml", "--data", "x.csv", "--out", "new"]),
    "weights of images": of_recipe("x.csv", "data.weights"),
    "weights in safetensors": of_recipe("x.safetensors", "train.start"),
    "weights of PyTorch": of_recipe("x.pth", "train.start"),
    "ONNX": ("x.onnx", ["translate", "x.onnx", "in.png", "out.png"]),
    "settings": ("gantk.toml", ["run", "tiny.toml", "--out", "new"]),
    "recipe of a run": ("RUN/recipe.toml", ["resume", "RUN"]),
    "split of a run": ("RUN/split.json", ["resume", "RUN"]),
    "scores of a run": ("RUN/metrics.json", ["pack", "RUN", "new"]),
    "state of a run": ("RUN/checkpoints/step-000001/state.json", ["resume", "RUN"]),
    "weights of a run": (
        "RUN/checkpoints/step-000001/weights.safetensors",
        ["translate", "RUN", "in.png", "out.png", "--device", "cpu"],
    ),
    "card": ("x.md", ["pack", "RUN", "new", "--card", "x.md"]),
    "rules of a service": ("x.toml", ["serve", "x.toml"]),
    "key of a reader study": ("study/key.csv", ["study", "score", "study", "answers.csv"]),
    "settings of a sweep": ("sweep/sweep.json", ["sweep", "--resume", "sweep"]),
}


# package -> its extra, the command that needs it, and modules that may be imported already: none that
# holds a command, because a command that is imported twice switches its plugin off for good
PACKAGES = {
    "onnxruntime": ("onnx", ["translate", "x.onnx", "in.png", "out.png"]),
    "onnxscript": ("onnx", ["export", "RUN", "--out", "new.onnx"]),
    "huggingface_hub": ("hub", ["translate", "hf://me/tiny", "in.png", "out.png"]),
    "pydicom": ("dicom", ["translate", "RUN", "x.dcm", "new"], "gantk_dicom"),
    "captum": ("explain", ["explain", "RUN", "in.png", "new"]),
    "ray": ("cluster", ["sweep", "tiny.toml", "--space", "method.cycle=1.0..20.0"]),
    "gradio": ("app", ["app", "RUN"], "gantk_serve.app.page"),
    "mlflow": ("track", ["run", "tiny.toml", "--out", "new", "--set", 'track=["mlflow"]']),
}


def message_of(command: list, name: str, trained: Path, here: Path) -> str:
    """What a command that reads a broken file of that name says; it writes nothing."""
    files.recipe(here / "tiny.toml")
    files.picture(here / "in.png", files.numbers(1, (32, 32)))
    if "RUN" in command:
        shutil.copytree(trained, here / "RUN")
    path = here / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(GARBAGE)
    before = files.tree(here)
    outcome = files.gantk(*command, cwd=here)

    assert outcome.code == 2, outcome
    assert "Traceback" not in outcome.out + outcome.err
    assert files.tree(here) == before
    return outcome.err.strip()


@pytest.mark.parametrize("kind", KINDS)
def test_a_broken_file_is_one_message_that_names_it(kind, trained, tmp_path):
    name, command = KINDS[kind]
    said = message_of(command, name, trained, tmp_path)

    assert re.fullmatch(r"error  .*cannot be read.*", said), said
    assert Path(name).name in said


@pytest.mark.parametrize("package", PACKAGES)
def test_a_missing_package_is_one_message(package, trained, tmp_path, monkeypatch):
    extra, command, *loaded = PACKAGES[package]
    for module in [each for each in sys.modules if each.startswith((f"{package}.", *loaded))]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, package, None)
    said = message_of(command, "x.dcm" if extra == "dicom" else "x.onnx", trained, tmp_path)

    assert f"needs the package {package}, which is not installed" in said
    assert f'pip install "gantk[{extra}]"' in said
