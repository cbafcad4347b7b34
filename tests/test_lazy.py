"""Importing is cheap: the commands that only look around import nothing heavy."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

HEAVY = ("torch", "torchvision", "timm", "kornia", "lpips", "numpy", "scipy", "nibabel", "nilearn", "matplotlib", "PIL")

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
        (["run", "--help"], "--profile"),
    ],
    ids=str,
)
def test_looking_around_imports_nothing_heavy(args, shown, tmp_path):
    command = [sys.executable, "-c", LOOK % (HEAVY,), json.dumps(args)]
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
