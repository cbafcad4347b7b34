"""Installing packages in tests: by pip, into a folder of their own, without a network."""

import shutil
from pathlib import Path

import pytest


def install(source: Path, target: Path, work: Path) -> None:
    """Build and install the package at `source` into the folder `target`; a copy below `work` is
    what pip writes to.
    """
    from tiny import python  # see conftest.py

    pytest.importorskip("pip", reason="needs pip in this environment")
    pytest.importorskip("hatchling", reason="needs hatchling: pip install gantk[dev]")
    copy = work / f"{source.name}-source"
    shutil.copytree(source, copy, ignore=shutil.ignore_patterns("__pycache__"))
    options = ("--quiet", "--no-deps", "--no-build-isolation", "--no-index", "--target", target)
    python("-m", "pip", "install", *options, copy).ok()


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
