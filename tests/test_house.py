"""The house stays one that can be held in mind: small files and rooms, rooms that know only those below them."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
import torch
from tiny import ROOT

CORE = ROOT / "gantk"
ROOMS = sorted({path.parent for path in CORE.rglob("*.py")})
# Each room with those it never imports: what is below does not know what is above it.
ABOVE = {
    "machine": ["training", "inference", "metrics", "exports", "report", "data"],
    "formats": ["training", "inference", "metrics", "exports", "report", "nets", "runs", "machine", "data"],
    "nets": ["training", "inference", "metrics", "exports", "report", "data", "formats", "runs"],
    "losses": ["training", "inference", "metrics", "exports", "report", "data", "formats", "runs"],
    "data": ["training", "inference", "exports", "report"],
    "runs": ["training", "inference", "metrics", "exports", "report"],
    "metrics": ["training", "exports", "report"],
    "inference": ["training", "exports", "report"],
    "report": ["training", "inference", "exports", "nets", "losses"],
}


def lines(path: Path) -> int:
    return path.read_text("utf-8").count("\n")


def imported(path: Path) -> set[str]:
    """Modules of gantk that a file imports when it is itself imported."""
    found = set()
    for node in ast.parse(path.read_text("utf-8")).body:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return {name for name in found if name.startswith("gantk.")}


@pytest.mark.parametrize("folder", ["gantk", "plugins", "tests", "benchmarks"])
def test_no_file_is_too_long_to_be_read_at_once(folder):
    assert {str(path): lines(path) for path in (ROOT / folder).rglob("*.py") if lines(path) > 450} == {}


@pytest.mark.parametrize(("folder", "most"), [("gantk", 18_000), ("benchmarks", 5_000)])
def test_a_folder_stays_of_a_size_that_can_be_held_in_mind(folder, most):
    assert sum(lines(path) for path in (ROOT / folder).rglob("*.py")) <= most


@pytest.mark.parametrize("room", ROOMS, ids=lambda room: str(room.relative_to(ROOT)))
def test_no_room_has_too_many_files(room):
    files = [path for path in room.glob("*.py") if path.name != "__init__.py"]
    assert len(files) <= (8 if room == CORE else 15)


@pytest.mark.parametrize("room", ABOVE)
def test_a_room_does_not_know_those_above_it(room):
    wrong = {
        f"{path.relative_to(CORE)} imports {name}"
        for path in (CORE / room).rglob("*.py")
        for name in imported(path)
        if name.split(".")[1] in ABOVE[room]
    }
    assert wrong == set()


@pytest.mark.parametrize("path", sorted(CORE.rglob("*.py")), ids=lambda path: str(path.relative_to(ROOT)))
def test_the_first_line_of_a_module_says_what_is_in_it(path):
    said = ast.get_docstring(ast.parse(path.read_text("utf-8")))
    assert said and len(said.split("\n")[0]) <= 120 and said.split("\n")[0][-1] in ".:"


def test_the_parts_that_contributing_shows_work():
    from gantk.metrics.pairs import PairMetric

    text = (ROOT / "CONTRIBUTING.md").read_text("utf-8")
    blocks = re.findall(r"^  ```python\n(.*?)^  ```", text, re.M | re.S)
    names = {"PairMetric": PairMetric}
    for block in blocks:
        exec(re.sub(r"^  ", "", block, flags=re.M), names)
    one, other = torch.rand(2, 1, 8, 8), torch.rand(2, 1, 8, 8)
    assert names["LogCosh"](scale=2.0)(one, one) == 0 < names["LogCosh"]()(one, other)
    metric = names["MedianError"](2.0, 2)
    assert metric(one, other).shape == (2,) and metric(one, one).tolist() == [0, 0] and "median" in metric.definition
