"""Installing packages in tests: by pip, into a folder of their own, without a network."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest


def install(source: Path, target: Path, work: Path) -> None:
    """Build and install the package at `source` into the folder `target`; a copy below `work` is what pip writes to."""
    pytest.importorskip("pip", reason="needs pip in this environment")
    pytest.importorskip("hatchling", reason="needs hatchling: pip install gantk[dev]")
    copy = work / f"{source.name}-source"
    shutil.copytree(source, copy, ignore=shutil.ignore_patterns("__pycache__"))
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    done = subprocess.run([*command, "--target", str(target), str(copy)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def python(*arguments: object, cwd: Path, path: Path) -> subprocess.CompletedProcess[str]:
    """`python ARGUMENTS` in `cwd`, with the folder `path` on its search path."""
    environment = os.environ | {"PYTHONPATH": str(path), "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run(
        [sys.executable, *map(str, arguments)], cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )
