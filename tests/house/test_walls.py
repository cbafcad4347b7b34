"""Walls: a room imports only rooms below it, modules import each other in no circle, and bundled
plugins import public modules alone.
"""

import ast
import functools
import re
from pathlib import Path

import pytest
from tiny import ROOT

import gantk
from gantk.plugin.public import PUBLIC_MODULES

# from the bottom to the top; CONTRIBUTING.md draws them
ROOMS = (
    "errors",
    "guest",
    "files",
    "downloads",
    "hub",
    "terminal",
    "progress",
    "method",
    "plugin",
    "recipe",
    "machine",
    "formats",
    "catalog",
    "nets",
    "losses",
    "prepare",
    "data",
    "runs",
    "inference",
    "metrics",
    "report",
    "exports",
    "training",
    "testing",
    "lookup",
    "planning",
    "scaffold",
    "api",
    "cli",
    "__main__",
)
FAMILIES = sorted(path.name for path in (ROOT / "plugins").glob("gantk_*"))


def name_of(path: Path) -> str:
    """The dotted name of a module of the core."""
    dotted = ".".join(path.relative_to(ROOT).with_suffix("").parts)
    return dotted.removesuffix(".__init__")


MODULES = {name_of(path): path for path in (ROOT / "gantk").rglob("*.py")}


@functools.cache
def imports_of(path: Path) -> list[tuple[str, str]]:
    """(module, name taken from it, or "") for each import of a file, inside functions too."""
    found = []
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            found += [(alias.name, "") for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                found.append((inner, "") if inner in MODULES else (node.module or "", alias.name))
    return found


def imported_modules(name: str) -> set[str]:
    """The other modules of the core that a module imports."""
    taken = {module for module, _ in imports_of(MODULES[name])}
    return (taken & MODULES.keys()) - {name}


def room_of(module: str) -> str:
    return module.split(".")[1]


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_imports_only_rooms_below_it(room):
    below = ROOMS[: ROOMS.index(room) + 1]
    modules = [name for name in MODULES if name != "gantk" and room_of(name) == room]

    assert modules
    for name in modules:
        taken = imported_modules(name) - {"gantk"}  # `from gantk import __version__`
        assert [module for module in taken if room_of(module) not in below] == [], name


# what reads names of files: only the catalog, and the readers of two standards, ask it
RULES_OF_NAMES = {"gantk.catalog.propose", "gantk.catalog.stated"}
READERS = ("gantk_bids", "gantk_dicom")


def test_only_the_catalog_knows_the_rules_of_names():
    plugins = [path for path in (ROOT / "plugins").rglob("*.py") if path.parts[-2] not in READERS]
    others = [path for name, path in MODULES.items() if not name.startswith("gantk.catalog.")]
    taken = {
        (name_of(path), module)
        for path in (*others, *plugins)
        for module, _ in imports_of(path)
        if module in RULES_OF_NAMES
    }

    assert taken == set()


def test_every_module_is_in_a_room_of_the_list():
    assert {room_of(name) for name in MODULES if name != "gantk"} == set(ROOMS)


def test_contributing_draws_the_rooms_in_their_order():
    text = (ROOT / "CONTRIBUTING.md").read_text("utf-8")
    drawing = text.split("```")[1]
    drawn = re.findall(r"^(\w+)/? ", drawing, re.M)

    assert [room for room in drawn if room in ROOMS] == [*reversed(ROOMS)]


def test_no_modules_import_each_other_in_a_circle():
    finished = set()

    def visit(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, [*path[path.index(name) :], name]
        if name in finished:
            return
        for module in imported_modules(name) - {"gantk"}:
            visit(module, (*path, name))
        finished.add(name)

    for name in MODULES.keys() - {"gantk"}:
        visit(name, ())


@pytest.mark.parametrize("family", FAMILIES)
def test_bundled_plugins_import_public_names_alone(family):
    public = {(module, name) for module, names in gantk._PUBLIC.items() for name in names}
    for path in (ROOT / "plugins" / family).rglob("*.py"):
        for module, name in imports_of(path):
            package = module.split(".")[0]
            assert package == family or package not in FAMILIES, path
            if package != "gantk":
                continue

            assert not name.startswith("_") or name == "__version__", path
            if module == "gantk":
                assert name in (*gantk.__all__, "__version__"), path
            else:
                assert module in PUBLIC_MODULES or (module, name) in public, (path, module)


def test_public_modules_are_those_that_somebody_imports():
    plugins = (ROOT / "plugins").rglob("*.py")
    taken = {module for path in plugins for module, _ in imports_of(path)}
    taken |= {"gantk.testing"}  # the tests of plugins

    assert set(PUBLIC_MODULES) <= MODULES.keys() & taken
    assert len(set(PUBLIC_MODULES)) == len(PUBLIC_MODULES)


def test_contributing_names_functions_that_exist():
    text = (ROOT / "CONTRIBUTING.md").read_text("utf-8")
    journeys = text[text.index("## Call paths") : text.index("## Plugins off and replaced")]
    defined = set()
    for path in (*MODULES.values(), *(ROOT / "plugins").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.ClassDef):
                defined |= {
                    f"{node.name}.{each.name}" for each in node.body if hasattr(each, "name")
                }
            if isinstance(node, ast.FunctionDef):
                defined.add(f"{path.stem}.{node.name}")

    named = set(re.findall(r"`([A-Za-z]\w+\.\w+)`", journeys)) - {"patterns.py"}
    assert len(named) > 15
    assert named - defined == set()

    paths = re.findall(r"`(gantk/[\w/]+\.py)`", journeys)
    assert len(paths) > 8
    assert [path for path in paths if not (ROOT / path).exists()] == []
