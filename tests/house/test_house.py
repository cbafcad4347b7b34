"""The house can be held in mind: small files, rooms that know those below them, true metadata,
cheap imports.
"""

import ast
import functools
import json
import re
import sys
import tomllib
from pathlib import Path

import pytest
import torch
from import_closure import ENTRIES, closure
from tiny import ROOT, draw_pictures, python

from gantk.cli import cli

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
MODULES = {
    "pillow": "PIL",
    "scikit-learn": "sklearn",
    "markdown-it-py": "markdown_it",
    "scikit-image": "skimage",
    "simpleitk": "SimpleITK",
}
# Used without an import of ours: a plugin of pytest, the linter, the builds, what torch exports and
# logs with.
UNSEEN = {
    "pytest-xdist",
    "ruff",
    "mypy",
    "hatchling",
    "onnxscript",
    "tensorboard",
    "mkdocs-material",
}
# What a required one brings.
OPTIONAL = {
    "torchvision",
    "huggingface_hub",
    "markupsafe",
    "pydantic_core",
    "urllib3",
    "fastapi",  # gradio's
    "uvicorn",
}


@functools.cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text("utf-8"))


def imported(path: Path) -> set[str]:
    """Dotted names that a file imports, inside functions too."""
    found = set()
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def module(distribution: str) -> str:
    return MODULES.get(distribution, distribution.replace("-", "_"))


def test_dependencies_are_declared_and_used():
    def used(*folders: str) -> set[str]:
        found = set()
        for folder in folders:
            for path in (ROOT / folder).rglob("*.py"):
                modules = imported(path)
                found.update(name.split(".")[0] for name in modules)
        return found

    def names(requirements: list[str]) -> set[str]:
        found = {re.split(r"[\[<>=~! ]", line)[0].lower() for line in requirements}
        return found - {PROJECT["name"]}

    groups = {"": names(PROJECT["dependencies"])}
    for name, requirements in PROJECT["optional-dependencies"].items():
        groups[name] = names(requirements)

    ours = used("gantk", "plugins")
    imports = re.compile(r"^\s*(?:from|import) (\w+)", re.M)  # much quicker than a syntax tree
    texts = (path.read_text("utf-8") for path in (ROOT / "tests").rglob("*.py"))
    in_tests = {name for text in texts for name in imports.findall(text)}
    for group, declared in groups.items():
        seen = in_tests if group == "dev" else ours
        assert {each for each in declared - UNSEEN if module(each) not in seen} == set(), group

    known = (
        {module(each) for each in set().union(*groups.values())}
        | OPTIONAL
        | sys.stdlib_module_names
    )
    known |= {
        path.stem for folder in (".", "plugins", "benchmarks") for path in (ROOT / folder).iterdir()
    }

    assert ours - known == set()


def test_the_parts_that_contributing_shows_work():
    from gantk.metrics.pairs import PairMetric

    text = (ROOT / "CONTRIBUTING.md").read_text("utf-8")
    names = {"PairMetric": PairMetric}
    for block in re.findall(r"^  ```python\n(.*?)^  ```", text, re.M | re.S):
        exec(re.sub(r"^  ", "", block, flags=re.M), names)

    one = torch.rand(2, 1, 8, 8)
    other = torch.rand(2, 1, 8, 8)

    assert names["LogCosh"](scale=2.0)(one, one) == 0 < names["LogCosh"]()(one, other)
    metric = names["MedianError"](2.0, 2)
    assert metric(one, other).shape == (2,)
    assert metric(one, one).tolist() == [0, 0]
    assert "median" in metric.definition


# ---- importing is cheap: what of ours is counted, what of others is watched


HEAVY = (
    "torch torchvision timm kornia lpips numpy scipy nibabel nilearn matplotlib PIL pydicom"
    " SimpleITK sklearn"
)
HEAVY += " pandas jinja2 onnxruntime"
SLOW = (
    "torch._dynamo sympy triton scipy.stats scipy.integrate nilearn sklearn kornia timm torchvision"
)
SLOW += " matplotlib jinja2 lpips"  # what torch and gantk can both do without at first
LOOKING = [["--help"], ["list"], ["list", "generator"], ["plugins"], ["recipes"]]

# One interpreter for all: what one command imports is still there for the next, so the order is
# from light to heavy.
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
found["translate a picture"] = imported(slow + " scipy pandas nibabel pydicom SimpleITK")
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


@pytest.mark.slow
def test_what_each_command_imports_of_others(tiny_run, tiny_recipe, tmp_path):
    (picture,) = draw_pictures(tmp_path, 1)
    looking = LOOKING + [[name, "--help"] for name in sorted(cli.commands)]
    given = json.dumps([looking, str(tiny_run), tiny_recipe, str(picture), HEAVY, SLOW])
    done = python("-c", SCRIPT, given, cwd=tmp_path).ok()
    found = json.loads(done.out.strip().splitlines()[-1])

    assert len(found) == len(looking) + 3
    assert {what: names for what, names in found.items() if names} == {}


def test_importing_translate_and_run_loads_few_modules():
    translating = closure(ENTRIES["translate"])
    training = closure(ENTRIES["run"])

    assert {"gantk.inference.model", "gantk.formats.nifti"} <= set(translating)
    # with the preparation in torch, and the notes that Python and the command line share
    # and the ranges and looks of the training images with which an input is compared
    # and the sentence of the run's own results
    assert len(translating) <= 93
    assert "gantk.training.engine" in training
    # with what `data check` would warn of, what is left out, and what scores whole files at the end
    assert len(training) <= 150
    assert not [module for module in translating if module.startswith("gantk.training")]


def test_one_function_creates_folders():
    """`files.make_folder`, whose folders others cannot write into, whatever the umask."""
    makers = {
        str(path.relative_to(ROOT))
        for room in ("gantk", "plugins")
        for path in (ROOT / room).rglob("*.py")
        if re.search(r"\b(mkdir|makedirs)\(", path.read_text("utf-8"))
    }

    assert makers == {"gantk/files.py"}


def test_names_of_tests_are_under_60_characters():
    long = [
        node.name
        for path in (ROOT / "tests").rglob("test_*.py")
        for node in ast.walk(tree(path))
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
        if len(node.name) >= 60
    ]

    assert long == []
