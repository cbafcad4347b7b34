"""Suites: a TOML file says how recipes are shortened, limited and scored, so that their rows can stand side by side."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, PrivateAttr

from gantk.errors import UserError, did_you_mean
from gantk.plugin.loader import registry
from gantk.plugin.spec import Problem, Table, check
from gantk.recipe.load import all_recipes, files_of, find_line


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
    try:
        text = path.read_text("utf-8-sig")
        tables = tomllib.loads(text)
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or "it is not a text file"
        raise UserError(f"the suite '{origin}' cannot be read: {why}", remedy="a suite is a TOML file") from None
    except tomllib.TOMLDecodeError as error:
        raise UserError(f"the suite '{origin}' is not valid TOML: {error}", remedy="compare it with quick") from None
    try:
        suite = check(Suite, tables | {"recipe": {name: {} for name in _named(tables)}}, "the suite")
        suite.recipe = {name: _entry(name, table) for name, table in _named(tables).items()}
    except Problem as problem:
        raise _told(problem, origin, text) from None
    _expect_recipes(suite, origin, text)
    suite._name = path.stem
    return suite


def all_suites() -> dict[str, tuple[Path, str]]:
    """name -> (file, distribution) of every suite that a plugin offers; gantk's own win."""
    return files_of(sorted(registry().suite_packages, key=lambda pair: pair[1] != "gantk"))


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


def _named(tables: dict[str, Any]) -> dict[str, Any]:
    """The [recipe.NAME] tables, by name."""
    named = tables.get("recipe", {})
    if not isinstance(named, dict):
        raise Problem(("recipe",), UserError("recipe is a table of tables", remedy="write [recipe.NAME]"))
    return named


def _entry(name: str, table: Any) -> RecipeTable:
    """One of them, checked; Problem with the path inside the suite."""
    try:
        if not isinstance(table, dict):
            raise Problem((), UserError(f"'{name}' is a table", remedy=f"write [recipe.{name}]"))
        return check(RecipeTable, table, "it")
    except Problem as problem:
        raise Problem(("recipe", name, *problem.path), problem.error) from None


def _told(problem: Problem, origin: str, text: str) -> UserError:
    line = find_line(text, tuple(key for key in problem.path if not isinstance(key, int)))
    dotted = ".".join(map(str, problem.path[:-1] if "option" in problem.error.what else problem.path))
    problem.error.what = f"{dotted}: {problem.error.what}" if dotted else problem.error.what
    return problem.error.at(f"{origin}:{line}" if line else origin)


def _expect_recipes(suite: Suite, origin: str, text: str) -> None:
    known = all_recipes()
    named = [(name, ("recipe", name)) for name in suite.recipe] + [(n, ("recipes",)) for n in suite.recipes or ()]
    for name, place in named:
        if name not in known:
            raise UserError(
                f"there is no recipe '{name}'",
                where=f"{origin}:{find_line(text, place)}",
                remedy=did_you_mean(name, known) or "see `gantk recipes`",
            )
