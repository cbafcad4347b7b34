"""A run folder has one writer at a time, and what is written is there whole or not at all."""

from __future__ import annotations

import ast

import numpy as np
import pytest
from tiny import ROOT

from gantk import files
from gantk.runs.folder import Run

# What writes below a folder that is hidden until it is whole, or line by line, or what a reader checks.
IN_PLACE = {
    "gantk/data/cache.py",  # a hidden name, then a rename; entries are checksummed
    "gantk/files.py",  # the one writer itself
    "gantk/formats/files.py",  # these write into the hidden folder that formats.files.write gives them
    "gantk/formats/image.py",
    "gantk/runs/folder.py",  # log.jsonl: whole lines, one write each
    "gantk/training/loop.py",  # table.txt and the trace, in a whole_folder
    "plugins/gantk_datasets/download.py",  # a download that goes on where it stopped, in a hidden folder
    "plugins/gantk_itk/itk.py",
    "plugins/gantk_monai/bundle.py",
    "plugins/gantk_new/scaffold.py",
}


def written_in_place(path) -> list[int]:
    """The lines of a module that open a file for writing under its own name."""
    found = []
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Call):
            name = getattr(node.func, "attr", getattr(node.func, "id", ""))
            modes = [a.value for a in node.args if isinstance(a, ast.Constant) and isinstance(a.value, str)]
            opened = name == "open" and any(set(mode) & set("wax") and len(mode) < 4 for mode in modes)
            if name in ("write_text", "write_bytes") or opened:
                found.append(node.lineno)
    return found


def test_every_file_is_written_by_the_one_writer():
    modules = [p for room in ("gantk", "plugins") for p in ROOT.glob(f"{room}/**/*.py") if "testing" not in p.parts]
    found = {str(path.relative_to(ROOT)): lines for path in modules if (lines := written_in_place(path))}
    assert set(found) <= IN_PLACE, {name: lines for name, lines in found.items() if name not in IN_PLACE}


def test_a_sample_picture_is_there_whole_or_not_at_all(tmp_path, monkeypatch):
    run, image = Run(tmp_path), np.zeros((1, 8, 8), np.float32)
    run.write_picture("step-000001", "a_to_b-0", image, -1.0, 1.0)
    (path,) = run.samples[1]
    before = path.read_bytes()

    def killed(*names):
        raise KeyboardInterrupt

    monkeypatch.setattr(files.os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        run.write_picture("step-000001", "a_to_b-0", image + 1, -1.0, 1.0)
    assert path.read_bytes() == before and [each.name for each in path.parent.iterdir()] == [path.name]
