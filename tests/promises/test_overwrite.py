"""Nothing that gantk did not write is replaced without --overwrite, whatever the command; what it
wrote is replaced by the same command, unless it was changed since.
"""

import shutil
from pathlib import Path

import files
import numpy as np
import pytest

FOREIGN = b"somebody's own work"
# name: the command, and the outputs among which another's file may lie; RUN is a trained run
COMMANDS = {
    "translate to a file": ("translate RUN in/slice-00.png out.png", ["out.png"]),
    "translate to a folder": ("translate RUN in out", ["out/slice-01.png"]),
    "translate to another format": ("translate RUN in out --format tif", ["out/slice-01.tif"]),
    "translate with uncertainty": (
        "translate RUN,RUN2 in/slice-00.png out.png --uncertainty",
        ["out_uncertainty.png"],
    ),
    "translate a series": ("translate RUN series out", ["out/IMG0001.dcm", "out/other.dcm"]),
    "export": ("export RUN --out model.onnx", ["model.onnx"]),
    "pack": ("pack RUN packed", ["packed/recipe.toml", "packed/notes.txt"]),
    "report": ("report RUN RUN2 --out page.html", ["page.html"]),
    "card": ("card RUN --out card.md", ["card.md"]),
    "plan": ("plan scans --out my.toml --hours 0.01", ["my.toml"]),
    "recipe": ("recipes copy dualgan_t1t2 my.toml", ["my.toml"]),
    "table": ("data check scans --table scans.csv", ["scans.csv"]),
    "findings": ("data check scans --json found.json", ["found.json"]),
    "scores": ("eval --pred in --truth in --metrics mae --json scores.json", ["scores.json"]),
    "stylize": (
        "stylize in/slice-00.png in/slice-01.png out.png --steps 1 --weights random",
        ["out.png"],
    ),
    "explain": ("explain RUN in/slice-00.png why", ["why.png"]),
    "plugin": ("new loss mine", ["mine/pyproject.toml"]),
}
WITH_DEVICE = ("translate", "plan", "stylize", "explain", "eval")
CASES = [(name, output) for name, (_, outputs) in COMMANDS.items() for output in outputs]


@pytest.fixture(scope="module")
def place(tmp_path_factory, trained):
    """A folder with a run, pictures, a DICOM series and scans of patients: only to be copied."""
    folder = tmp_path_factory.mktemp("place")
    for name in ("RUN", "RUN2"):
        shutil.copytree(trained, folder / name)
    files.pictures(folder / "in", 3)
    files.series(folder / "series", files.numbers(1, (3, 32, 32), 0, 900, np.int16))
    files.patients(folder / "scans", 3, size=(32, 32, 3))
    return folder


@pytest.fixture
def here(place, tmp_path):
    """A copy of that folder."""
    return Path(shutil.copytree(place, tmp_path / "here"))


LONG = ("export", "plan")  # commands that take seconds


def run(name: str, here: Path, *options: str) -> files.Outcome:
    words = COMMANDS[name][0].split()
    device = ["--device", "cpu"] if words[0] in WITH_DEVICE else []
    return files.gantk(*words, *device, *options, cwd=here)


def put(path: Path, here: Path) -> bytes:
    """Put another's file in the place of an output; returns its content."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".dcm":
        shutil.copy(next((here / "series").iterdir()), path)
    else:
        path.write_bytes(FOREIGN)
    return path.read_bytes()


@pytest.mark.quick_cases(*(f"{name}-{output}" for name, output in CASES if name not in LONG))
@pytest.mark.parametrize(("name", "output"), CASES)
def test_another_file_is_refused_unless_overwrite(here, name, output):
    content = put(here / output, here)
    before = files.tree(here)

    refused = run(name, here)
    assert refused.code == 2, refused.out + refused.err
    assert f"'{output}'" in refused.err
    assert "--overwrite" in refused.err
    assert files.tree(here) == before

    run(name, here, "--overwrite").ok()
    assert not (here / output).is_file() or (here / output).read_bytes() != content


@pytest.mark.quick_cases(*(name for name in COMMANDS if name not in LONG))
@pytest.mark.parametrize("name", COMMANDS)
def test_own_file_is_replaced_unless_changed(here, name):
    output = here / COMMANDS[name][1][0]
    run(name, here).ok()
    run(name, here).ok()

    output.write_bytes(FOREIGN)
    run(name, here).refused()
    assert output.read_bytes() == FOREIGN


def test_emptied_file_is_replaced(here):
    (here / "scans.csv").touch()
    run("table", here).ok()


def test_run_keeps_other_files_of_its_folder(here):
    put(here / "new/metrics.json", here)
    files.recipe(here / "tiny.toml")
    command = ["run", "tiny.toml", "--out", "new", "--device", "cpu"]
    before = files.tree(here)
    told = files.gantk(*command, cwd=here).refused()
    assert "'new/metrics.json'" in told
    assert files.tree(here) == before


@pytest.mark.parametrize("name", ["translate to a folder", "card", "pack"])
def test_own_file_is_known_without_attributes(here, name, monkeypatch):
    monkeypatch.delattr("os.setxattr")
    run(name, here).ok()
    run(name, here).ok()
    (here / COMMANDS[name][1][0]).write_bytes(FOREIGN)
    run(name, here).refused()


def test_results_have_no_other_files_beside_them(here):
    run("translate to a folder", here).ok()
    names = {path.name for path in (here / "out").iterdir()}
    if ".gantk-written" in names:
        pytest.skip("this file system has no extended attributes")
    assert names == {path.name for path in (here / "in").iterdir()}
