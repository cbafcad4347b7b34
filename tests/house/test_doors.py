"""Doors: files of a run folder, which somebody else may have made, are opened and removed through
gantk.files alone, which accepts regular files of bounded size inside the folder.
"""

import ast
from pathlib import Path

import pytest
from tiny import ROOT

# rooms that read and write run folders
ROOMS = ("runs", "training", "inference", "metrics", "report", "exports")
PLUGINS = ("gantk_studies", "gantk_models", "gantk_cluster", "gantk_trust", "gantk_scores")
OPENERS = {"open", "read_text", "read_bytes", "load", "load_file", "memmap", "ZipFile"}
REMOVERS = {"rmtree", "copytree", "copyfile", "copy", "copy2", "move"}
MODULES = {"np", "numpy", "nibabel", "shutil", "Image", "Picture", "PIL", "torch", "io", "os"}
METHODS = {"load", "memmap", *REMOVERS}  # also methods of that name: a plugin's load, a list's copy
CHECKED = {"regular_file", "open_file", "read_file"}
# what may open a file by itself, and why
ALLOWED = {
    ("gantk/training/live.py", "open"): "the null device, for a closed terminal",
    ("plugins/gantk_models/monai/torchscript.py", "ZipFile"): "bytes in memory",
    ("gantk/metrics/compare_models.py", "load"): "arrays that it has written to a temporary folder",
    ("gantk/training/trial.py", "read_text"): "/proc/self/statm",
    ("gantk/report/run_record.py", "open"): "a picture that is_inside has accepted",
    ("gantk/report/pictures.py", "open"): "pictures that Samples.picture has accepted",
    ("plugins/gantk_studies/card.py", "read_text"): "the package's own items.toml",
    ("plugins/gantk_cluster/slurm/script.py", "read_text"): "the package's own template",
}


def modules() -> list[Path]:
    folders = [ROOT / "gantk" / room for room in ROOMS] + [ROOT / "plugins" / p for p in PLUGINS]
    return sorted(path for folder in folders for path in folder.rglob("*.py"))


def name_of(call: ast.Call) -> str:
    """The called name where it may open or remove a file: `open`, `np.load`, `path.read_text`."""
    function = call.func
    if isinstance(function, ast.Name):
        return "" if function.id in METHODS else function.id
    if not isinstance(function, ast.Attribute):
        return ""

    owner = function.value.id if isinstance(function.value, ast.Name) else ""
    if owner == "RunFolder" or (function.attr in METHODS and owner not in MODULES):
        return ""
    return function.attr


def bare_calls(path: Path) -> list[str]:
    """The calls of a module that open or remove a file without a check."""
    found = []
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if not isinstance(node, ast.Call) or name_of(node) not in OPENERS | REMOVERS:
            continue
        inner = {
            name_of(each)
            for part in (*node.args, node.func)
            for each in ast.walk(part)
            if isinstance(each, ast.Call)
        }
        if not inner & CHECKED:
            found.append(f"{name_of(node)} in line {node.lineno}")
    return found


@pytest.mark.parametrize("path", modules(), ids=lambda path: path.relative_to(ROOT).as_posix())
def test_files_of_runs_are_opened_through_one_door(path):
    own = path.relative_to(ROOT).as_posix()
    bare = [call for call in bare_calls(path) if (own, call.split()[0]) not in ALLOWED]

    assert not bare, f"{own} opens files by itself, not by read_file or open_file: {bare}"


def test_every_exception_is_still_one():
    for own, name in ALLOWED:
        assert any(call.split()[0] == name for call in bare_calls(ROOT / own)), (own, name)
