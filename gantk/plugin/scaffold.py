"""`gantk new plugin NAME`: a small package with a method, a recipe and a contract test, green as written."""

from __future__ import annotations

import importlib.util
import keyword
import os
import re
import shutil
import sys
from pathlib import Path
from string import Template

from gantk.errors import UserError
from gantk.plugin.loader import registry

SHAPE = re.compile(r"[A-Za-z][A-Za-z0-9]*([-_][A-Za-z0-9]+)*")
TEMPLATES = Path(__file__).parent / "templates"


def new_plugin(name: str, folder: str | Path = ".") -> Path:
    """Write the package `name` below `folder` and return its path; it is there whole or not at all.

    The module's and the method's name is `name` in lower case with underscores. UserError where the name cannot be one,
    is taken by Python, an installed package or a registered method, or where the folder is missing or taken.
    """
    words = _names(name)
    target = Path(folder) / words["distribution"]
    if not Path(folder).is_dir():
        raise UserError(f"there is no folder '{folder}'", where="--folder", remedy="make it first")
    if target.exists():
        raise UserError(f"'{target}' exists already", where="NAME", remedy="choose another name or --folder")
    temporary = target.with_name(f".{target.name}.new")
    try:
        for template in sorted(TEMPLATES.rglob("*.in")):
            path = temporary / str(template.relative_to(TEMPLATES).with_suffix("")).replace("MODULE", words["module"])
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(Template(template.read_text("utf-8")).substitute(words), "utf-8")
        os.rename(temporary, target)
    except OSError as error:
        raise UserError(f"'{target}' cannot be written: {error.strerror}", where="--folder") from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return target


def _names(name: str) -> dict[str, str]:
    """What the templates call things: distribution, module, method, cls."""
    if not SHAPE.fullmatch(name):
        allowed = "a letter, then letters and digits, words joined by - or _, such as my-gan"
        raise UserError(f"'{name}' cannot be the name of a package", where="NAME", allowed=allowed)
    module = name.replace("-", "_").lower()
    method = registry().entries.get(("method", module))
    if keyword.iskeyword(module) or keyword.issoftkeyword(module) or module in sys.stdlib_module_names:
        what = f"'{module}' means something in Python itself"
    elif method:
        what = f"the method '{module}' is taken by '{method.owner}'"
    elif importlib.util.find_spec(module):
        what = f"a package '{module}' is installed already"
    else:
        cls = "".join(word[0].upper() + word[1:] for word in re.split("[-_]", name))
        return {"distribution": module.replace("_", "-"), "module": module, "method": module, "cls": cls}
    raise UserError(what, where="NAME", remedy="choose another name")
