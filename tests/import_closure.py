"""Lists the gantk modules that an entry point imports, read from the source without running it.

    python tests/import_closure.py translate run
    python tests/import_closure.py gantk.api:export gantk.formats.nifti

An entry is a module, a function (`package.module:function`), or a name in ENTRIES. Counts imports
at module level, but not under `if TYPE_CHECKING`, and imports inside the function that an entry
names and inside functions of its module that it calls. Does not count components that a recipe
names (the registry imports them at first use), nor a package's `__init__` with nothing but a
docstring.
"""

import ast
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
COMMAND = ("gantk.__main__", "gantk.cli")
ENTRIES = {
    "translate": (
        *COMMAND,
        "gantk.api:translate",
        "gantk.inference.load:load_model",
        "gantk.formats.nifti",
    ),
    "run": (*COMMAND, "gantk.api:run"),
}


def closure(entries: Iterable[str]) -> list[str]:
    """Sorted names of all gantk modules that the entries import, with the entries themselves."""
    waiting: list[str] = []
    for entry in entries:
        module, _, function = entry.partition(":")
        waiting.append(module)
        if function:
            waiting += _imports_inside(_parsed(module), function)
    found: dict[str, ast.Module] = {}
    while waiting:
        module = waiting.pop()
        if module in found:
            continue
        tree = _parsed(module)
        if tree is not None:
            found[module] = tree
            waiting += [module.rpartition(".")[0], *_imported(_top_level(tree.body))]
    return sorted(module for module, tree in found.items() if len(tree.body) > 1)


def _parsed(module: str) -> ast.Module | None:
    if not module:
        return None
    path = ROOT / module.replace(".", "/")
    for file in (path.with_name(f"{path.name}.py"), path / "__init__.py"):
        if file.is_file():
            return ast.parse(file.read_text("utf-8"))
    return None


def _top_level(body: list[ast.AST]) -> Iterator[ast.AST]:
    """The statements that run when a module is imported."""
    for node in body:
        typing = isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        if not typing and not isinstance(node, ast.FunctionDef):
            yield node
            children = ast.iter_child_nodes(node)
            yield from _top_level([child for child in children if isinstance(child, ast.stmt)])


def _imported(nodes: Iterable[ast.AST]) -> Iterator[str]:
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (node.module, *(f"{node.module}.{alias.name}" for alias in node.names))


def _imports_inside(tree: ast.Module, function: str) -> list[str]:
    """Modules imported inside a function and inside the functions of its module that it calls."""
    functions = {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef)}
    waiting = [function]
    seen: set[str] = set()
    modules: list[str] = []
    while waiting:
        name = waiting.pop()
        if name not in functions or name in seen:
            continue
        seen.add(name)
        nodes = list(ast.walk(functions[name]))
        modules += _imported(nodes)
        called = [node.func for node in nodes if isinstance(node, ast.Call)]
        waiting += [each.id for each in called if isinstance(each, ast.Name)]
    return modules


if __name__ == "__main__":
    for asked in sys.argv[1:] or ENTRIES:
        modules = closure(ENTRIES.get(asked, (asked,)))
        print(f"{asked}: {len(modules)} modules", *modules, sep="\n  ")
