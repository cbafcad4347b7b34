"""Every dependency that pyproject.toml declares is imported somewhere, and everything that is imported is declared."""

from __future__ import annotations

import ast
import functools
import re
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
MODULES = {  # where the name that is imported is not the distribution's
    "pillow": "PIL",
    "scikit-learn": "sklearn",
    "scikit-image": "skimage",
    "simpleitk": "SimpleITK",
}
# Used without an import of ours: a plugin of pytest, the linter, the build, and what `gantk export` hands to torch.
UNSEEN = {"pytest-xdist", "ruff", "hatchling", "onnxscript"}
# What a required one brings, and NVIDIA's package, which is read where it happens to be there.
OPTIONAL = {"torchvision", "huggingface_hub", "markupsafe", "pydantic_core", "pynvml"}


def names(requirements: list[str]) -> set[str]:
    """The distributions of requirement lines, gantk's own extras left out."""
    found = {re.split(r"[\[<>=~! ]", line)[0].lower() for line in requirements}
    return found - {PROJECT["name"]}


@functools.cache
def imported(*folders: str) -> set[str]:
    """The top-level modules that the files below these folders import, inside functions too."""
    found = set()
    for path in (path for folder in folders for path in (ROOT / folder).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                found |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                found.add(node.module.split(".")[0])
    return found


def module(distribution: str) -> str:
    return MODULES.get(distribution, distribution.replace("-", "_"))


REQUIRED = names(PROJECT["dependencies"])
EXTRAS = {extra: names(lines) for extra, lines in PROJECT["optional-dependencies"].items()}


@pytest.mark.parametrize("distribution", sorted(REQUIRED))
def test_what_is_required_is_imported(distribution):
    assert module(distribution) in imported("gantk", "plugins")


@pytest.mark.parametrize("extra", sorted(EXTRAS))
def test_what_an_extra_brings_is_imported(extra):
    used = imported("tests") if extra == "dev" else imported("gantk", "plugins")
    assert {each for each in EXTRAS[extra] - UNSEEN if module(each) not in used} == set()


def test_what_is_imported_is_declared():
    known = {module(each) for each in REQUIRED.union(*EXTRAS.values())} | OPTIONAL
    ours = {path.stem for folder in (".", "plugins", "benchmarks") for path in (ROOT / folder).iterdir()}
    assert imported("gantk", "plugins") - known - ours - sys.stdlib_module_names == set()
