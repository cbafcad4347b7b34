"""Importing is cheap: what commands import of ours is counted, what they import of others is watched."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
from import_closure import ENTRIES, ROOT, closure
from PIL import Image as Picture

from gantk.cli import cli

HEAVY = ("torch", "torchvision", "timm", "kornia", "lpips", "numpy", "scipy", "nibabel", "nilearn", "matplotlib", "PIL")
HEAVY += ("pydicom", "SimpleITK", "sklearn", "pandas", "jinja2", "onnxruntime")
SLOW = ("torch._dynamo", "sympy", "triton", "scipy.stats", "scipy.integrate", "nilearn", "sklearn", "pandas", "kornia")
SLOW += ("timm", "torchvision", "matplotlib", "jinja2", "lpips")  # what torch and gantk can both do without at first
LOOKING = [["--help"], ["list"], ["list", "generators"], ["plugins"], ["recipes"]]

# One interpreter for all: what one command imports is still there for the next, so the order is from light to heavy.
SCRIPT = """
import json, sys
import gantk

found = {"import gantk": [name for name in (*%(heavy)r, "pydantic", "rich", "click") if name in sys.modules]}
from gantk.cli import main

for arguments in json.loads(sys.argv[1]):
    code, kept = 0, sys.argv
    sys.argv = ["gantk", *arguments]
    try:
        main()
    except SystemExit as end:
        code = end.code
    sys.argv = kept
    found[" ".join(arguments)] = [name for name in %(heavy)r if name in sys.modules] + [code] * bool(code)

gantk.translate(sys.argv[2], "in.png", "out.png", device="cpu", say=lambda line: None)
needless = (*%(slow)r, "scipy", "nibabel", "pydicom", "SimpleITK")
found["translate a picture"] = [name for name in needless if name in sys.modules]

class Reached(Exception):
    pass

def first():
    raise Reached

from gantk.training import loop

loop.since_start = first
try:
    gantk.run(json.loads(sys.argv[3]), out="run", device="cpu", say=lambda line: None)
except Reached:
    found["the first step"] = [name for name in %(slow)r if name in sys.modules]
print("\\n" + json.dumps(found))
"""


def test_what_each_command_imports_of_others(tiny_run, tiny_recipe, tmp_path):
    Picture.fromarray(np.random.default_rng(0).integers(0, 255, (32, 32)).astype(np.uint8)).save(tmp_path / "in.png")
    looking = LOOKING + [[name, "--help"] for name in sorted(cli.commands)]
    arguments = [json.dumps(looking), str(tiny_run), json.dumps(tiny_recipe)]
    command = [sys.executable, "-c", SCRIPT % {"heavy": HEAVY, "slow": SLOW}, *arguments]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=900, check=True)
    found = json.loads(done.stdout.strip().splitlines()[-1])
    assert len(found) == len(looking) + 3
    assert {what: names for what, names in found.items() if names} == {}
    assert "patchgan" in done.stdout and "dualgan_t1t2" in done.stdout


def test_translating_takes_few_of_our_modules_and_no_trainer():
    modules = closure(ENTRIES["translate"])
    assert "gantk.inference.translator" in modules and "gantk.formats.nifti" in modules
    assert len(modules) <= 60
    assert not [module for module in modules if module.startswith("gantk.training")]


def test_training_takes_few_of_our_modules():
    modules = closure(ENTRIES["run"])
    assert "gantk.training.engine" in modules
    assert len(modules) <= 80


def test_what_uses_a_trained_run_never_imports_the_trainer():
    rooms = (ROOT / "gantk" / room for room in ("inference", "exports", "formats", "runs", "nets", "losses", "machine"))
    modules = [".".join(file.relative_to(ROOT).with_suffix("").parts) for room in rooms for file in room.rglob("*.py")]
    assert len(modules) > 30
    assert not [module for module in closure(modules) if module.startswith("gantk.training")]
