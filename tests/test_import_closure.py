"""Importing is cheap: what commands import of ours is counted, what they import of others is watched."""

import json
import subprocess
import sys

from import_closure import ENTRIES, closure
from tiny import draw_pictures

from gantk.cli import cli

HEAVY = "torch torchvision timm kornia lpips numpy scipy nibabel nilearn matplotlib PIL pydicom SimpleITK sklearn"
HEAVY += " pandas jinja2 onnxruntime"
SLOW = "torch._dynamo sympy triton scipy.stats scipy.integrate nilearn sklearn pandas kornia timm torchvision"
SLOW += " matplotlib jinja2 lpips"  # what torch and gantk can both do without at first
LOOKING = [["--help"], ["list"], ["list", "generators"], ["plugins"], ["recipes"]]

# One interpreter for all: what one command imports is still there for the next, so the order is from light to heavy.
SCRIPT = """
import json, sys
import gantk

looking, run, recipe, picture, heavy, slow = json.loads(sys.argv[1])
imported = lambda names: [name for name in names.split() if name in sys.modules]
found = {"import gantk": imported(heavy + " pydantic rich click")}
from gantk.cli import main

for arguments in looking:
    code, sys.argv = 0, ["gantk", *arguments]
    try:
        main()
    except SystemExit as end:
        code = end.code
    found[" ".join(arguments)] = imported(heavy) + [code] * bool(code)

gantk.translate(run, picture, "out.png", device="cpu", say=lambda line: None)
found["translate a picture"] = imported(slow + " scipy nibabel pydicom SimpleITK")
from gantk.training import loop

def first():
    found["the first step"] = imported(slow)
    raise KeyError("the first step")

loop.since_start = first
try:
    gantk.run(recipe, out="run", device="cpu", say=lambda line: None)
except KeyError:
    print("\\n" + json.dumps(found))
"""


def test_what_each_command_imports_of_others(tiny_run, tiny_recipe, tmp_path):
    (picture,) = draw_pictures(tmp_path, 1)
    looking = LOOKING + [[name, "--help"] for name in sorted(cli.commands)]
    given = json.dumps([looking, str(tiny_run), tiny_recipe, str(picture), HEAVY, SLOW])
    command = [sys.executable, "-c", SCRIPT, given]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=900, check=True)
    found = json.loads(done.stdout.strip().splitlines()[-1])
    assert len(found) == len(looking) + 3
    assert {what: names for what, names in found.items() if names} == {}


def test_translating_and_training_take_few_of_our_modules_and_translating_no_trainer():
    translating, training = closure(ENTRIES["translate"]), closure(ENTRIES["run"])
    assert {"gantk.inference.translator", "gantk.formats.nifti"} <= set(translating) and len(translating) <= 60
    assert "gantk.training.engine" in training and len(training) <= 80
    assert not [module for module in translating if module.startswith("gantk.training")]
