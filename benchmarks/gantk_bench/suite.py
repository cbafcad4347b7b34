"""Suites: a TOML file says how recipes are shortened, limited and scored, so that their rows can stand side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, PrivateAttr

from gantk.errors import UserError, did_you_mean
from gantk.plugin.loader import registry
from gantk.plugin.spec import Table, check
from gantk.recipe.load import all_recipes, at_its_key, files_of, place, read_toml


class Scored(Table):
    """Metrics for every recipe of one kind; None leaves each recipe its own."""

    translate: list[Any] | None = None  # methods that translate images; names, or tables with a name
    noise: list[Any] | None = None  # methods that make images from noise


class RecipeTable(Table):
    """What one recipe gets apart from the others."""

    profile: str | None = None  # instead of the suite's; "" is none
    set: dict[str, Any] = {}  # over the suite's settings
    limit: float | None = Field(None, gt=0)  # seconds
    skip: str | None = Field(None, min_length=1)  # the reason why it is left out


class Suite(Table):
    """What all recipes of a bench have in common, and what single ones have apart."""

    format: Literal[1] = 1
    summary: str = ""
    recipes: list[str] | None = None  # what --all means; None: every recipe there is
    profile: str | None = None  # applied where a recipe has it
    limit: float | None = Field(None, gt=0)  # seconds for one recipe; None: as long as it takes
    jobs: int = Field(1, ge=1)  # recipes that train at once
    threads: int | None = Field(None, ge=1)  # of each; None: the cores, shared out among the jobs
    max_steps: int | None = Field(
        None, ge=0
    )  # longer trainings, and those in epochs, are cut to it; a `set` may differ
    set: dict[str, Any] = {}  # settings for every recipe, as `gantk run --set` takes them
    metrics: Scored = Field(default_factory=Scored)
    recipe: dict[str, RecipeTable] = {}  # [recipe.NAME]

    _name: str = PrivateAttr("")

    @property
    def name(self) -> str:
        """The file's name without its suffix."""
        return self._name


def load_suite(name: str) -> Suite:
    """A suite by its path or name; UserError with the key, the line and the nearest name where something is wrong."""
    path, origin = _find(name)
    text, tables = read_toml(path, origin, "suite", "`gantk bench --help`")
    try:
        suite = check(Suite, tables, "the suite")
    except UserError as error:
        raise at_its_key(error, lambda keys: place(text, origin, keys)) from None
    known = all_recipes()
    for name in (*suite.recipe, *(suite.recipes or ())):
        if name not in known:
            where = place(text, origin, ("recipe", name) if name in suite.recipe else ("recipes",))
            remedy = did_you_mean(name, known) or "see `gantk recipes`"
            raise UserError(f"there is no recipe '{name}'", where=where, remedy=remedy)
    suite._name = path.stem
    return suite


def all_suites() -> dict[str, tuple[Path, str]]:
    """name -> (file, distribution) of every suite that a plugin offers; gantk's own win."""
    return files_of(sorted(registry().packages["suites"], key=lambda pair: pair[1] != "gantk"))


def _find(name: str) -> tuple[Path, str]:
    if Path(name).is_file():
        return Path(name), name
    known = all_suites()
    stem = name.removesuffix(".toml")
    if stem not in known:
        what = f"'{name}' is a folder, not a suite" if Path(name).is_dir() else f"there is no suite '{name}'"
        allowed = ", ".join([*sorted(known), "or a TOML file"])
        raise UserError(what, where="--suite", allowed=allowed, remedy=did_you_mean(Path(stem).name, known))
    path, owner = known[stem]
    return path, f"{path.name} (bundled with {owner})"
