"""`gantk new KIND NAME`: writes a small package with a part, its contract test and a recipe; its
tests pass.
"""

from __future__ import annotations

import importlib.util
import keyword
import re
import sys
import tomllib
from pathlib import Path
from string import Template

from gantk.errors import UserError
from gantk.files import expect_parent, expect_replaceable, make_folder, whole_folder, write_file
from gantk.plugin.loader import registry

SHAPE = re.compile(r"[A-Za-z][A-Za-z0-9]*([-_][A-Za-z0-9]+)*")
TEMPLATES = Path(__file__).parent / "templates"


def new_plugin(
    name: str, folder: str | Path = ".", kind: str = "method", overwrite: bool = False
) -> Path:
    """Write the package `name` with a part of `kind` below `folder`, whole or not at all; returns
    its path.

    The module and the part are called `name` in lower case with underscores. UserError where the
    name is not valid or belongs to Python, an installed package or a registered part, or where the
    folder is missing, or contains what `overwrite` is needed for.
    """
    words = _names(name, kind)
    target = Path(folder) / words["distribution"]
    expect_parent(target, "--folder")
    expect_replaceable([target], overwrite, "NAME")
    shared = [
        *TEMPLATES.glob("*.in"),
        *TEMPLATES.glob("src/**/*.in"),
        *TEMPLATES.glob("tests/*.in"),
    ]
    with whole_folder(target, record=True) as made:
        for template in [*shared, TEMPLATES / "kinds" / f"{kind}.py.in"]:
            path = made / str(template.relative_to(TEMPLATES).with_suffix("")).replace(
                "MODULE", words["module"]
            )
            if path.parent.name == "kinds":
                path = made / "src" / words["module"] / f"{words['part']}.py"
            elif path.name == "kinds.toml" or (
                path.parent.name == "recipes" and not words["offer"]
            ):
                continue

            make_folder(path.parent)
            text = Template(template.read_text("utf-8")).substitute(words)
            write_file(path, text.encode())

    return target


def _names(name: str, kind: str) -> dict[str, str]:
    """The templates' variables: distribution, module, name, cls, kind, and all keys of
    kinds.toml.in.
    """
    if not SHAPE.fullmatch(name):
        raise UserError(
            f"'{name}' is not a valid package name",
            where="NAME",
            allowed="a letter, then letters and digits; words are joined by - or _, as in my-gan",
        )

    module = name.replace("-", "_").lower()
    taken = registry().entries.get((kind, module))
    if (
        keyword.iskeyword(module)
        or keyword.issoftkeyword(module)
        or module in sys.stdlib_module_names
    ):
        what = f"'{module}' is a keyword or module of Python"
    elif taken:
        what = f"'{taken.owner}' already offers the {kind} '{module}'"
    elif (found := importlib.util.find_spec(module)) and found.has_location:
        what = f"a package '{module}' is already installed"
    else:
        cls = "".join(word[0].upper() + word[1:] for word in re.split("[-_]", name))
        words = {
            "distribution": module.replace("_", "-"),
            "module": module,
            "name": module,
            "cls": cls,
        }
        words |= {"kind": kind, "Kind": kind.title()}
        kinds = tomllib.loads(
            Template((TEMPLATES / "kinds.toml.in").read_text("utf-8")).substitute(words)
        )
        return words | kinds["all"] | kinds[kind]

    raise UserError(what, where="NAME", remedy="choose another name")
