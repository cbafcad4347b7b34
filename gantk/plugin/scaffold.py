"""`gantk new plugin NAME`: a small package with a method, a recipe and a contract test, green as written."""

from __future__ import annotations

import importlib.resources
import importlib.util
import keyword
import os
import re
import shutil
import sys
import tempfile
from pathlib import Path
from string import Template

from gantk.errors import UserError
from gantk.plugin.loader import registry

SHAPE = re.compile(r"[A-Za-z][A-Za-z0-9]*([-_][A-Za-z0-9]+)*")


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
    try:
        _write(target, words)
    except OSError as error:
        raise UserError(f"'{target}' cannot be written: {error.strerror}", where="--folder") from None
    return target


def _names(name: str) -> dict[str, str]:
    """What the templates call things: distribution, module, method, cls."""
    if not SHAPE.fullmatch(name):
        allowed = "a letter, then letters and digits, words joined by - or _, such as my-gan"
        raise UserError(f"'{name}' cannot be the name of a package", where="NAME", allowed=allowed)
    module = name.replace("-", "_").lower()
    if keyword.iskeyword(module) or keyword.issoftkeyword(module) or module in sys.stdlib_module_names:
        raise UserError(f"'{module}' means something in Python itself", where="NAME", remedy="choose another name")
    if ("method", module) in registry().entries:
        owner = registry().entries["method", module].owner
        raise UserError(f"the method '{module}' is taken by '{owner}'", where="NAME", remedy="choose another name")
    if importlib.util.find_spec(module):
        raise UserError(f"a package '{module}' is installed already", where="NAME", remedy="choose another name")
    words = re.split("[-_]", name)
    cls = "".join(word[0].upper() + word[1:] for word in words)
    return {"distribution": module.replace("_", "-"), "module": module, "method": module, "cls": cls}


def _write(target: Path, words: dict[str, str]) -> None:
    """All files under a temporary name, then a rename."""
    temporary = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        temporary.chmod(0o777 & ~_umask())
        templates = Path(__file__).parent / "templates"
        for template in sorted(templates.rglob("*.in")):
            parts = template.relative_to(templates).with_suffix("").parts
            path = temporary.joinpath(*(part.replace("MODULE", words["module"]) for part in parts))
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(Template(template.read_text("utf-8")).substitute(words), "utf-8")
        os.rename(temporary, target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
