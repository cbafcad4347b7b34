"""Words at the part: the core lists no name of a part that a plugin brings."""

import ast
import functools

import pytest
from tiny import ROOT

from gantk.plugin.loader import registry

# modules that hold what is known of every part, or print it
MODULES = (
    "metrics/words.py",
    "metrics/verdict.py",
    "metrics/rows.py",
    "metrics/summary.py",
    "report/scores.py",
    "report/words.py",
    "report/summary.py",
    "plugin/registry.py",
    "plugin/builtins.py",
    "planning/recipe.py",
    "testing/small.py",
)
# words that name something of the core too
SHARED = {"noise", "coverage", "domains", "crop", "translate", "style"}


@functools.cache
def plugin_names() -> frozenset[str]:
    """The names of parts and scores that bundled plugins alone register."""
    names = set()
    core = set()
    for kind in registry():
        for entry in registry().of_kind(kind):
            of_plugin = str(entry.target).startswith("gantk_")
            (names if of_plugin else core).update((entry.name, *entry.words))
    return frozenset(names - core - SHARED)


@pytest.mark.parametrize("module", MODULES)
def test_the_core_names_no_part_of_a_plugin(module):
    tree = ast.parse((ROOT / "gantk" / module).read_text("utf-8"))
    texts = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)}
    assert not plugin_names() & texts
