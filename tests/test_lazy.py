"""Importing is cheap: the commands that only look around import nothing heavy."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image as Picture

from gantk.cli import cli

HEAVY = ("torch", "torchvision", "timm", "kornia", "lpips", "numpy", "scipy", "nibabel", "nilearn", "matplotlib", "PIL")
HEAVY += ("pydicom", "SimpleITK", "sklearn", "pandas", "jinja2", "onnxruntime", "pydantic")
SLOW = ("torch._dynamo", "sympy", "triton", "scipy.stats", "scipy.integrate", "nilearn", "sklearn", "pandas", "kornia")
SLOW += ("timm", "torchvision", "matplotlib", "jinja2", "lpips")  # what torch and gantk can both do without at first
COMMANDS = sorted(cli.commands)

LOOK = """
import json, sys
sys.argv = ["gantk", *json.loads(sys.argv[1])]
code = 0
try:
    from gantk.cli import main
    main()
except SystemExit as end:
    code = end.code
print("\\n" + json.dumps([code, [name for name in %r if name in sys.modules]]))
"""


@pytest.mark.parametrize(
    ("args", "shown"),
    [
        (["--help"], "translate"),
        (["list"], "patchgan"),
        (["list", "generators"], "resnet"),
        (["plugins"], "dualgan"),
        (["recipes"], "dualgan_t1t2"),
        *(([name, "--help"], "Usage: gantk") for name in COMMANDS),
    ],
    ids=str,
)
def test_looking_around_imports_nothing_heavy(args, shown, tmp_path):
    heavy = [name for name in HEAVY if name != "pydantic" or args != ["recipes"]]
    command = [sys.executable, "-c", LOOK % (heavy,), json.dumps(args)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=900, check=True)
    output, _, last = done.stdout.strip().rpartition("\n")
    assert json.loads(last) == [0, []]
    assert shown in output


def test_importing_gantk_imports_next_to_nothing(tmp_path):
    look = f"import gantk, sys; print([n for n in (*{HEAVY!r}, 'pydantic', 'rich', 'click') if n in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", look], cwd=tmp_path, capture_output=True, text=True, timeout=900, check=True
    )
    assert done.stdout.strip() == "[]"


FIRST_STEP = """
import json, sys
import gantk
from gantk.training import loop

class Reached(Exception):
    pass

def first():
    raise Reached

loop.since_start = first
recipe = {
    "method": {"name": "cyclegan", "generator": {"name": "unet", "width": 4, "depth": 2},
               "discriminator": {"name": "patchgan", "width": 4, "layers": 3}},
    "data": {"source": {"name": "phantom", "subjects": 6, "slices": 1}, "domains": ["T1", "T2"], "size": [32, 32]},
    "train": {"steps": 1, "batch": 1},
}
try:
    gantk.run(recipe, out="run", device="cpu")
except Reached:
    print("\\n" + json.dumps([name for name in %r if name in sys.modules]))
"""
TRANSLATE = """
import json, sys
import gantk

gantk.translate(sys.argv[1], sys.argv[2], "out.png", device="cpu")
print("\\n" + json.dumps([name for name in %r if name in sys.modules]))
"""


def test_the_first_step_waits_for_no_import_that_it_does_not_need(tmp_path):
    assert imported(FIRST_STEP % (SLOW,), tmp_path) == []


def test_a_picture_is_translated_without_what_training_and_volumes_need(tiny_run, tmp_path):
    values = np.random.default_rng(0).integers(0, 255, (32, 32)).astype(np.uint8)
    Picture.fromarray(values).save(tmp_path / "in.png")
    needless = (*SLOW, "scipy", "nibabel", "pydicom", "SimpleITK")
    assert imported(TRANSLATE % (needless,), tmp_path, str(tiny_run), "in.png") == []


def imported(script: str, folder, *arguments: str) -> list[str]:
    """What a script, in a process of its own, prints last."""
    command = [sys.executable, "-c", script, *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=900, check=True)
    return json.loads(done.stdout.strip().splitlines()[-1])
