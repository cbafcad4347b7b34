"""Installing packages in tests: by pip, into a folder of their own, without a network."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest


def install(source: Path, target: Path, work: Path) -> None:
    """Build and install the package at `source` into the folder `target`; a copy below `work` is
    what pip writes to.
    """
    pytest.importorskip("pip", reason="needs pip in this environment")
    pytest.importorskip("hatchling", reason="needs hatchling: pip install gantk[dev]")
    copy = work / f"{source.name}-source"
    shutil.copytree(source, copy, ignore=shutil.ignore_patterns("__pycache__"))
    command = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-deps",
        "--no-build-isolation",
        "--no-index",
    ]
    done = subprocess.run(
        [*command, "--target", str(target), str(copy)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def put_distribution(
    folder: Path, name: str, module: str, source: str, point: str = "", version: str = "1.0"
) -> Path:
    """A distribution of one module with one entry point, as pip would have installed it into the
    folder.
    """
    info = folder / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir(parents=True)
    (folder / f"{module}.py").write_text(source, "utf-8")
    (info / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n", "utf-8"
    )
    (info / "entry_points.txt").write_text(f"[gantk]\n{point or module} = {module}\n", "utf-8")
    return folder


def python(*arguments: object, cwd: Path, path: Path) -> subprocess.CompletedProcess[str]:
    """`python ARGUMENTS` in `cwd`, with the folder `path` on its search path."""
    environment = os.environ | {"PYTHONPATH": str(path), "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
