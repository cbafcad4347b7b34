"""Words at the part: the core lists no name of a part that a plugin brings."""

import ast
import functools

from tiny import ROOT

from gantk import registry

# words of the core too, by what they are there
HOMONYMS = {
    *("noise", "coverage", "precision", "curve", "unit", "translate", "generated", "matched"),
    *("domains", "contrast", "slices", "affine", "crop", "auto", "blur"),  # keys and their values
    "checkpoints",  # a folder of a run
    "ct",  # a kind of image
    *("timm", "lpips"),  # libraries
    "style",  # of a console
}
DEFAULTS = {"phantom"}  # of a recipe: the data that need no download


@functools.cache
def plugin_names() -> frozenset[str]:
    """The names of parts and scores that bundled plugins alone register."""
    names = set()
    core = set()
    for kind in registry():
        for entry in registry().of_kind(kind):
            of_plugin = str(entry.target).startswith("gantk_")
            (names if of_plugin else core).update((entry.name, *entry.words))
    return frozenset(names - core - HOMONYMS - DEFAULTS)


def test_the_core_names_no_part_of_a_plugin():
    named = {}
    for path in (ROOT / "gantk").rglob("*.py"):
        tree = ast.parse(path.read_text("utf-8"))
        texts = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)}
        named[str(path)] = plugin_names() & texts

    assert {module: names for module, names in named.items() if names} == {}
